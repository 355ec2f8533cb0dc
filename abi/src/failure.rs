//! The one shape in which both sides report that something did not work.

use abi_stable::{StableAbi, std_types::RString};

/// What kind of failure it was: an open set, so that a later version can add to it.
///
/// The host decides with it (which HTTP status, whether a retry makes sense) and writes its [name](Self::name) into the
/// history. A code that a reader does not know is treated like [`REFUSED`](Self::REFUSED).
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FailureCode(pub u32);

macro_rules! failure_codes {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        impl FailureCode {
            $( $(#[$doc])* pub const $constant: FailureCode = FailureCode($number); )*

            /// Every code of this version, in the order of its number.
            pub const ALL: &[FailureCode] = &[$(FailureCode($number)),*];

            /// The name that the history, HTTP answers and the command line use.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $( $number => $name, )*
                    _ => "unknown_failure",
                }
            }
        }
    };
}

failure_codes! {
    /// The behaviour said no, by its own rules.
    REFUSED = 1, "refused";
    /// The arguments do not fit the method.
    BAD_ARGUMENTS = 2, "bad_arguments";
    /// The slots do not fit the behaviour.
    BAD_SLOTS = 3, "bad_slots";
    /// No object has this id or name.
    NO_SUCH_OBJECT = 4, "no_such_object";
    /// Neither the object's behaviour nor a parent's has this method.
    NO_SUCH_METHOD = 5, "no_such_method";
    /// No plugin in force provides this behaviour.
    NO_SUCH_BEHAVIOR = 6, "no_such_behavior";
    /// The plugin's code panicked; its transaction was undone.
    PANICKED = 7, "panicked";
    /// A query tried to change something.
    READ_ONLY = 8, "read_only";
    /// A context was used outside the call it was made for.
    STALE_CONTEXT = 9, "stale_context";
    /// Parents of equal rank give different answers.
    AMBIGUOUS = 10, "ambiguous";
    /// Messages were nested too deeply.
    TOO_DEEP = 11, "too_deep";
    /// A message reached an object that is itself waiting for this very message to return.
    REENTRANT = 12, "reentrant";
    /// A transaction grew past a configured bound.
    LIMIT_EXCEEDED = 13, "limit_exceeded";
    /// The name already belongs to another object.
    NAME_TAKEN = 14, "name_taken";
    /// The behaviour cannot read slots of this schema version.
    NO_MIGRATION = 15, "no_migration";
    /// Bytes that crossed the boundary are not deterministic CBOR.
    BAD_ENCODING = 16, "bad_encoding";
    /// The host that loaded the plugin does not have this function.
    UNSUPPORTED = 17, "unsupported";
    /// The storage failed while an object was read.
    STORAGE = 18, "storage";
    /// A record of the identity is not what was written.
    IDENTITY_DAMAGED = 19, "identity_damaged";
    /// The plugin asked for something that it was not granted.
    NOT_ALLOWED = 20, "not_allowed";
}

/// Why a call across the boundary did not give a result.
#[repr(C)]
#[derive(StableAbi, Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What kind of failure it was.
    pub code: FailureCode,
    /// The behaviour's own word for it (such as `overdraft`), for programs; empty where the code says it all.
    pub kind: RString,
    /// What happened and what to do about it, for people.
    pub message: RString,
}

impl Failure {
    /// A failure that its code describes fully.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Failure { code, kind: RString::new(), message: RString::from(message.into()) }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.kind.is_empty() { self.code.name() } else { self.kind.as_str() };
        write!(f, "{name}: {}", self.message)
    }
}

impl std::error::Error for Failure {}

pub(crate) const fn layout(digest: u64) -> u64 {
    crate::fold_layout!(digest, Failure, code, kind, message)
}
