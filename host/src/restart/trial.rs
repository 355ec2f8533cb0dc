//! Whether this start is a trial.

use std::env;

use super::instruction::InstructionId;

/// Says that the watchdog started this host to see whether a new release works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// The instruction that is being carried out.
    pub id: InstructionId,
}

/// The environment speaks of a trial, but not of which.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "THESEUS_TRIAL=1 is set but THESEUS_UPDATE_ID is `{id}`, which is no instruction id: only the watchdog sets them"
)]
pub struct TrialError {
    /// What `THESEUS_UPDATE_ID` holds.
    pub id: String,
}

impl Trial {
    /// Reads `THESEUS_TRIAL` and `THESEUS_UPDATE_ID`; none in an ordinary start.
    ///
    /// # Errors
    ///
    /// If the environment says that this is a trial without naming the instruction. The host should not start then: it
    /// could not tell the watchdog that it works.
    pub fn from_env() -> Result<Option<Trial>, TrialError> {
        let value = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Trial::from_values(value("THESEUS_TRIAL"), value("THESEUS_UPDATE_ID"))
    }

    fn from_values(trial: Option<String>, id: Option<String>) -> Result<Option<Trial>, TrialError> {
        if trial.as_deref() != Some("1") {
            return Ok(None);
        }
        let id = id.unwrap_or_default();
        id.parse().map(|id| Some(Trial { id })).map_err(|_| TrialError { id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_needs_its_instruction() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(Trial::from_values(None, text("a1")), Ok(None));
        assert_eq!(Trial::from_values(text("0"), None), Ok(None));
        assert_eq!(Trial::from_values(text("1"), text("a1")).unwrap().unwrap().id.to_string(), "a1");
        assert!(Trial::from_values(text("1"), None).is_err());
        assert!(Trial::from_values(text("1"), text("../a")).is_err());
    }
}
