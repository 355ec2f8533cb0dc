//! Swaps by the thousand: what clients see of them, what they cost, and whether anything is left behind.

pub mod bench;
mod erlang;
mod resources;
pub mod soak;
mod touch;
mod vessel;

use std::path::PathBuf;

pub use self::{resources::Resources, vessel::Swapped};
use crate::{api::ApiError, programs::ProgramError};

/// Why a measurement could not be carried through.
#[derive(thiserror::Error, Debug)]
pub enum SwapsError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The host could not be talked to.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host did not answer in time, or ended.
    #[error("the host {problem}; see {}", log.display())]
    Host {
        /// What it did instead.
        problem: String,
        /// Where it tells why.
        log: PathBuf,
    },
    /// The host told something that does not fit.
    #[error("the host's answer lacks {field}: {document}")]
    Missing {
        /// What is not in it.
        field: &'static str,
        /// The answer.
        document: serde_json::Value,
    },
    /// A client could not do its work.
    #[error("the load was not faultless: {0}")]
    Load(String),
}

/// Some numbers of one kind in order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    pub(crate) fn new(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        Sorted(numbers)
    }

    /// The least number that at least this part of all does not exceed; 0 if there is none.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil().max(1.0) as usize;
        self.0.get(rank - 1).or(self.0.last()).copied().unwrap_or(0.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A number rounded as figures are told: to a tenth.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_numbers_that_occurred() {
        let numbers = Sorted::new((1..=200).rev().map(f64::from).collect());
        assert_eq!((numbers.at(0.0), numbers.at(0.5), numbers.at(0.99), numbers.at(1.0)), (1.0, 100.0, 198.0, 200.0));
        assert_eq!(Sorted::default().at(0.5), 0.0);
    }
}
