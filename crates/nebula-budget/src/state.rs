//! The life of a budget.

use std::fmt;

/// Where a budget is in its life: `Created -> Active <-> Exhausted -> Released`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum BudgetState {
    /// Nothing was ever charged.
    Created,
    /// In use.
    Active,
    /// It has refused a charge, and nothing has been credited to it since.
    Exhausted,
    /// Its capacity went back to its parent; it refuses every charge. What is still charged is
    /// counted until it is credited.
    Released,
}

impl BudgetState {
    pub(crate) const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Created,
            1 => Self::Active,
            2 => Self::Exhausted,
            _ => Self::Released,
        }
    }
}

impl fmt::Display for BudgetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Active => "active",
            Self::Exhausted => "exhausted",
            Self::Released => "released",
        })
    }
}

/// What a budget does with charges that do not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum Enforcement {
    /// They are refused.
    #[default]
    Enforce,
    /// They are let through and counted: to find out what a limit would do before it does it. All
    /// else is as if the limit were enforced; reclaimers are asked, too. Budgets above may still
    /// refuse.
    Observe,
}

impl Enforcement {
    pub(crate) const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Enforce,
            _ => Self::Observe,
        }
    }
}
