//! Rules for Rust files.

use std::path::Path;

use super::{Fault, File};

/// The longest a Rust file may be, in lines.
const MAX_LINES: usize = 800;

/// Files that may be longer, each with the reason.
pub(super) const LONG_FILES: &[(&str, &str)] = &[];

/// What must not be left in code.
const LEFTOVERS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// The rules for one file.
pub(super) fn check(file: &File) -> Vec<Fault> {
    let code = code(&file.text);
    let mut faults = Vec::new();
    for (index, (line, raw)) in code.lines().zip(file.text.lines()).enumerate() {
        for word in LEFTOVERS {
            let call = format!("{word}(");
            // Examples in documentation are code, too.
            let documented = raw.trim_start().starts_with("//") && raw.contains(&call);
            if holds_word(line, word) || documented {
                faults.push(Fault::new(&file.path, index + 1, format!("`{word}` is left")));
            }
        }
        let compact: String = line.split_whitespace().collect();
        if compact.contains("#[ignore]")
            || (compact.contains("cfg_attr(") && compact.contains(",ignore)"))
        {
            let message = "a test is ignored without a reason: write `#[ignore = \"why\"]`";
            faults.push(Fault::new(&file.path, index + 1, message));
        }
    }
    faults.extend(reasons(file, &code));
    faults
}

/// Every `allow` and `expect` attribute says why.
fn reasons(file: &File, code: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (start, _) in code.match_indices('#') {
        let rest = code[start + 1..].trim_start_matches('!').trim_start();
        let Some(attribute) = rest.strip_prefix('[').and_then(bracketed) else {
            continue;
        };
        let compact: String = attribute.split_whitespace().collect();
        let silences = ["allow(", "expect("].iter().any(|lint| {
            compact.starts_with(lint)
                || (compact.starts_with("cfg_attr(") && compact.contains(&format!(",{lint}")))
        });
        if silences && !compact.contains("reason=") {
            let line = code[..start].matches('\n').count() + 1;
            let message = format!("`{}` gives no reason", attribute.trim());
            faults.push(Fault::new(&file.path, line, message));
        }
    }
    faults
}

/// `text` up to the bracket that closes the one before it.
fn bracketed(text: &str) -> Option<&str> {
    let mut depth = 1;
    for (index, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..index]);
        }
    }
    None
}

/// Files longer than they may be, and exceptions that are no longer needed.
pub(super) fn length(files: &[File], exceptions: &[(&str, &str)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let is_long = |file: &File| file.text.lines().count() > MAX_LINES;
    for file in files.iter().filter(|file| file.is_rust() && is_long(file)) {
        if !exceptions.iter().any(|(path, _)| file.path == Path::new(path)) {
            let lines = file.text.lines().count();
            let message = format!("{lines} lines are more than {MAX_LINES}: split the file");
            faults.push(Fault::new(&file.path, 0, message));
        }
    }
    for (path, reason) in exceptions {
        if reason.trim().is_empty() {
            faults.push(Fault::new(path, 0, "may be long, for no reason given"));
        }
        if !files.iter().any(|file| file.path == Path::new(path) && is_long(file)) {
            faults.push(Fault::new(path, 0, "is no longer too long: take it off the list"));
        }
    }
    faults
}

/// Whether `word` occurs in `line`, and not as the end of another word.
fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(start, _)| !line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// `text` with comments and the contents of strings and characters replaced by spaces; lines stay
/// where they are.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, code.chars().next_back()) {
            length
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[skipped..];
    }
    code
}

/// The length of the comment that `text` begins with; comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut index = 0;
    while index < text.len() {
        let rest = &text[index..];
        if rest.starts_with("/*") {
            depth += 1;
            index += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            index += 2;
            if depth == 0 {
                return index;
            }
        } else {
            index += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the raw string that `text` begins with, if it does.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let prefix = ["r", "br", "cr"].iter().find_map(|prefix| {
        let hashes = text.strip_prefix(prefix)?;
        let count = hashes.len() - hashes.trim_start_matches('#').len();
        hashes[count..].starts_with('"').then_some((prefix.len() + count + 1, count))
    });
    let (start, hashes) = prefix?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[start..].find(&end).map_or(text.len(), |length| start + length + end.len()))
}

/// The length of the literal that `text` begins with, up to the closing `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return index + c.len_utf8();
        }
    }
    text.len()
}

/// Whether `text`, which begins with an apostrophe, is a character and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (Some(_), Some(close)) => close == '\'',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        check(&File::planted("a.rs", text)).into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn leftovers_are_found_in_code_and_in_examples() {
        for word in LEFTOVERS {
            assert_eq!(faults(&format!("fn f() {{\n    {word}()\n}}\n")).len(), 1, "{word}");
            assert_eq!(faults(&format!("/// ```\n/// {word}(1);\n/// ```\n")).len(), 1, "{word}");
            // Talking about it is no use of it.
            assert!(
                faults(&format!("// no {word} here\nconst A: &str = \"{word}()\";\n")).is_empty()
            );
        }
        assert!(faults("my_todo!();").is_empty());
    }

    #[test]
    fn ignored_tests_need_a_reason() {
        assert_eq!(faults("#[test]\n#[ignore]\nfn f() {}\n").len(), 1);
        assert_eq!(faults("#[test]\n#[cfg_attr(miri, ignore)]\nfn f() {}\n").len(), 1);
        assert!(faults("#[test]\n#[ignore = \"needs a network\"]\nfn f() {}\n").is_empty());
        assert!(faults("#[cfg_attr(miri, ignore = \"slow\")]\nfn f() {}\n").is_empty());
    }

    #[test]
    fn silenced_lints_need_a_reason() {
        for attribute in [
            "#[allow(dead_code)]",
            "#![expect(clippy::pedantic)]",
            "#[allow(\n    clippy::a,\n    clippy::b,\n)]",
            "#[cfg_attr(test, allow(dead_code))]",
        ] {
            assert_eq!(faults(&format!("{attribute}\nfn f() {{}}\n")).len(), 1, "{attribute}");
        }
        assert!(faults("#[allow(dead_code, reason = \"[it] is\")]\nfn f() {}\n").is_empty());
        assert!(faults("#[derive(Debug)]\nstruct A;\n// #[allow(x)]\n").is_empty());
    }

    #[test]
    fn long_files_need_a_reason_and_reasons_need_a_long_file() {
        let long = [File::planted("a.rs", &"\n".repeat(MAX_LINES + 1))];
        let short = [File::planted("a.rs", &"\n".repeat(MAX_LINES))];
        assert_eq!(length(&long, &[]).len(), 1);
        assert_eq!(length(&long, &[("a.rs", " ")]).len(), 1);
        assert!(length(&long, &[("a.rs", "one table")]).is_empty());
        assert_eq!(length(&short, &[("a.rs", "one table")]).len(), 1);
        assert!(length(&short, &[]).is_empty());
    }

    #[test]
    fn code_is_told_from_comments_and_literals() {
        let text = "a /* x /* y */ z */ b \"q\\\"r\" c r#\"s\"t\"# d 'u' '\\'' e::<'v> // w\nf";
        let code = code(text);
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "d", "e::<'v>", "f"]);
        assert_eq!(code.lines().count(), 2);
    }
}
