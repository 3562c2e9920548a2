//! A list whose memory is allocated and freed where no lock is held.

/// A singly linked list, whose links are allocated before a lock is taken and freed after it is
/// released, and which holds no memory when it is empty.
#[derive(Debug)]
pub(super) struct List<T>(Option<Box<Link<T>>>);

#[derive(Debug)]
pub(super) struct Link<T> {
    pub(super) item: T,
    next: List<T>,
}

impl<T> List<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) const fn link(item: T) -> Link<T> {
        Link { item, next: Self::new() }
    }

    pub(super) fn push(&mut self, mut link: Box<Link<T>>) {
        link.next.0 = self.0.take();
        self.0 = Some(link);
    }

    pub(super) fn pop(&mut self) -> Option<Box<Link<T>>> {
        let mut link = self.0.take()?;
        self.0 = link.next.0.take();
        Some(link)
    }

    pub(super) fn find(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let mut list = self;
        while let Some(link) = &mut list.0 {
            if wanted(&link.item) {
                return Some(&mut link.item);
            }
            list = &mut link.next;
        }
        None
    }

    pub(super) fn for_each(&mut self, mut each: impl FnMut(&mut T)) {
        let mut list = self;
        while let Some(link) = &mut list.0 {
            each(&mut link.item);
            list = &mut link.next;
        }
    }

    /// Takes out the first link that is `wanted`.
    pub(super) fn remove(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<Box<Link<T>>> {
        let mut list = self;
        while list.0.as_ref().is_some_and(|link| !wanted(&link.item)) {
            // Checked by the condition; an `if let` here would borrow for too long.
            list = &mut list.0.as_mut()?.next;
        }
        let mut link = list.0.take()?;
        list.0 = link.next.0.take();
        Some(link)
    }
}

impl<T> Drop for List<T> {
    /// Link by link: a long list must not be freed by recursion.
    fn drop(&mut self) {
        while let Some(link) = self.pop() {
            drop(link);
        }
    }
}
