//! What the books say against what the process holds.

use std::fmt;

use nebula_memory_core::ByteSize;

/// What budgets (and whatever else keeps books) say is in use, beside what the process really
/// holds; from [`MemoryMonitor::reconcile`](crate::MemoryMonitor::reconcile).
///
/// The unexplained part is what nobody has charged: code, stacks, what C libraries allocate, and
/// what the allocator keeps or loses in fragments. If the allocator's own figure is known, the last
/// of these is told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Reconciliation {
    /// Resident bytes of the process.
    pub resident: usize,
    /// Bytes that the allocator has handed out, by its own figure, if that was given.
    pub allocated: Option<usize>,
    /// What each book says, by name.
    pub books: Vec<(String, usize)>,
}

impl Reconciliation {
    /// The sum of the books.
    pub fn booked(&self) -> usize {
        self.books.iter().map(|(_, bytes)| *bytes).fold(0, usize::saturating_add)
    }

    /// Resident bytes that no book explains.
    pub fn unexplained(&self) -> usize {
        self.resident.saturating_sub(self.booked())
    }

    /// Booked bytes that are not resident: reserved, but never touched.
    pub fn untouched(&self) -> usize {
        self.booked().saturating_sub(self.resident)
    }

    /// Bytes that the allocator has handed out and no book tells of; `None` without its figure.
    pub fn unbooked(&self) -> Option<usize> {
        Some(self.allocated?.saturating_sub(self.booked()))
    }
}

impl fmt::Display for Reconciliation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resident, booked) = (ByteSize::new(self.resident), ByteSize::new(self.booked()));
        let unexplained = ByteSize::new(self.unexplained());
        write!(f, "{resident} resident, {booked} booked, {unexplained} unexplained")?;
        if let Some(allocated) = self.allocated {
            write!(f, ", {} allocated", ByteSize::new(allocated))?;
        }
        for (name, bytes) in &self.books {
            write!(f, "; {name} {}", ByteSize::new(*bytes))?;
        }
        Ok(())
    }
}
