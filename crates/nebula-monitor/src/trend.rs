//! How fast something grows, over a window of time.

use std::time::Duration;

/// Points that are kept for a window; each stands for a thirty-second part of it, so that frequent
/// readings neither take more memory nor shorten the window.
const POINTS: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Point {
    at: Duration,
    bytes: usize,
}

/// A series of bytes in use, thinned out; nothing here allocates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trend {
    points: [Point; POINTS],
    len: usize,
    /// Growth from the last reading but one to the last, in bytes a second.
    latest: Option<f64>,
    /// The last reading: a point of the series may stand for several.
    last: Option<Point>,
    /// The one before it, of an earlier time.
    before: Option<Point>,
    /// Growth over the window, as of the last reading.
    rate: Option<f64>,
}

impl Trend {
    /// Takes in a reading. One of the past is ignored, and so is one that is known already; but
    /// where the clock has gone back by more than the window, the series begins anew.
    pub(crate) fn push(&mut self, at: Duration, bytes: usize, window: Duration) {
        if self.last.is_some_and(|last| last.at.saturating_sub(at) > window) {
            *self = Self::default();
        }
        if let Some(last) = self.last {
            if (last.at, last.bytes) == (at, bytes) {
                return;
            }
            let Some(elapsed) = at.checked_sub(last.at) else { return };
            self.before = if elapsed.is_zero() { self.before } else { Some(last) };
            let growth = bytes as f64 - last.bytes as f64;
            self.latest = Some(match elapsed.as_secs_f64() {
                // Nothing can be said of a rise in no time at all: it counts as steep.
                0.0 if growth > 0.0 => f64::INFINITY,
                0.0 => 0.0,
                seconds => growth / seconds,
            });
        }
        let point = Point { at, bytes };
        self.last = Some(point);
        // The newest point moves along until it is far enough from the one before it.
        let gap = window / u32::try_from(POINTS).unwrap_or(1);
        let crowded = self.len >= 2 && at.saturating_sub(self.points[self.len - 2].at) < gap;
        let same = self.len >= 1 && self.points[self.len - 1].at == at;
        if crowded || same {
            self.points[self.len - 1] = point;
        } else {
            if self.len == POINTS {
                self.forget(1);
            }
            self.points[self.len] = point;
            self.len += 1;
        }
        let old = |point: &&Point| at.saturating_sub(point.at) > window;
        let old = self.points[..self.len].iter().take_while(old).count();
        if old > 0 {
            self.forget(old);
        }
        self.rate = self.slope(window);
    }

    /// Growth in bytes a second over the window, as of the last reading.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    fn forget(&mut self, oldest: usize) {
        self.points.copy_within(oldest..self.len, 0);
        self.len -= oldest;
    }

    /// Growth in bytes a second, by least squares over the window. `None` with fewer than three
    /// points, or if they lie within less than a quarter of the window: a single large allocation
    /// is no trend.
    fn slope(&self, window: Duration) -> Option<f64> {
        let points = &self.points[..self.len];
        let (first, last) = (points.first()?, points.last()?);
        if points.len() < 3 || last.at.saturating_sub(first.at) < window / 4 {
            return None;
        }
        // Relative to the first point, so that large figures don't eat the digits of small
        // differences; in one pass, because this is the dearest part of a check that only computes.
        let (mut sum_x, mut sum_y, mut sum_xx, mut sum_xy) = (0.0, 0.0, 0.0, 0.0);
        for point in points {
            let x = seconds(point.at.saturating_sub(first.at));
            let y = point.bytes as f64 - first.bytes as f64;
            (sum_x, sum_y) = (sum_x + x, sum_y + y);
            (sum_xx, sum_xy) = (sum_xx + x * x, sum_xy + x * y);
        }
        let n = points.len() as f64;
        let below = sum_xx - sum_x * sum_x / n;
        (below > 0.0).then(|| (sum_xy - sum_x * sum_y / n) / below)
    }

    /// Growth between the last two readings, in bytes a second.
    pub(crate) fn latest(&self) -> Option<f64> {
        self.latest
    }

    /// Growth from the oldest point of the window to the newest reading, in bytes, and over what
    /// time; zero if it shrank. With readings further apart than the window, that between the last
    /// two of them.
    pub(crate) fn growth(&self) -> Option<(usize, Duration)> {
        let last = self.last?;
        let first = match &self.points[..self.len] {
            [only] => self.before.unwrap_or(*only),
            points => *points.first()?,
        };
        Some((last.bytes.saturating_sub(first.bytes), last.at.saturating_sub(first.at)))
    }
}

/// As `as_secs_f64`, without its division.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs() as f64 + f64::from(duration.subsec_nanos()) * 1e-9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(1);

    fn of(points: impl IntoIterator<Item = (u64, usize)>) -> Trend {
        let mut trend = Trend::default();
        for (millis, bytes) in points {
            trend.push(Duration::from_millis(millis), bytes, WINDOW);
        }
        trend
    }

    #[test]
    fn a_line_has_its_slope_however_often_it_is_read() {
        for every in [1, 7, 50, 200] {
            let trend = of((0..3000).step_by(every).map(|t| (t as u64, 5000 + 2 * t)));
            let rate = trend.rate().unwrap();
            assert!((rate - 2000.0).abs() < 1e-6, "every {every} ms: {rate}");
        }
    }

    #[test]
    fn the_window_forgets_what_was_before() {
        let up_then_flat = (0..5000).map(|t: usize| (t as u64, t.min(2000)));
        assert!(of(up_then_flat).rate().unwrap().abs() < 1e-6);
    }

    #[test]
    fn too_little_is_no_trend() {
        assert_eq!(of([]).rate(), None);
        assert_eq!(of([(0, 0), (900, 100)]).rate(), None, "two points");
        assert_eq!(of([(0, 0), (50, 5), (100, 10)]).rate(), None, "too short");
        assert_eq!(of([(0, 0), (2000, 5), (4000, 10)]).rate(), None, "too far apart");
    }

    #[test]
    fn a_rise_in_no_time_is_steep_and_the_past_is_ignored() {
        let mut trend = of([(100, 10), (100, 11)]);
        assert_eq!(trend.latest(), Some(f64::INFINITY));
        trend.push(Duration::ZERO, 999, WINDOW);
        assert_eq!(trend.growth(), Some((0, Duration::ZERO)));
    }

    #[test]
    fn readings_further_apart_than_the_window_tell_of_the_last_two() {
        assert_eq!(of([(0, 5)]).growth(), Some((0, Duration::ZERO)));
        let apart = of([(0, 5), (2000, 7), (4000, 10), (4000, 11)]);
        assert_eq!(apart.growth(), Some((4, Duration::from_secs(2))));
    }

    #[test]
    fn a_clock_that_goes_back_begins_anew() {
        let mut trend =
            of((0..50_u64).zip((0..).step_by(1000)).map(|(i, used)| (60_000 + 20 * i, used)));
        assert!(trend.rate().unwrap() > 0.0);
        for i in 0..50 {
            trend.push(Duration::from_millis(20 * i), 500, WINDOW);
        }
        assert_eq!(trend.rate(), Some(0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_series_panics_and_points_stay_in_order(
            series in proptest::collection::vec((any::<u64>(), any::<usize>()), 0..100),
            window in 1_u64..u64::MAX,
        ) {
            let window = Duration::from_nanos(window);
            let mut trend = Trend::default();
            for (nanos, bytes) in series {
                trend.push(Duration::from_nanos(nanos), bytes, window);
                let points = &trend.points[..trend.len];
                prop_assert!(points.windows(2).all(|pair| pair[0].at < pair[1].at));
                prop_assert!(!points.is_empty());
                let _ = (trend.rate(), trend.latest(), trend.growth());
            }
        }
    }
}
