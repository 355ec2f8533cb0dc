//! Schema versions: by which way slots of one version become those of the behaviour in force.

use theseus_abi::BehaviorManifest;

use crate::plugin::Behavior;

/// The schema versions that one generation of a behaviour knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schemas<'a> {
    /// The one it works with.
    pub own: u32,
    /// Those that it can turn into its own.
    pub reads: &'a [u32],
    /// Those into which it can turn its own.
    pub writes: &'a [u32],
}

/// Who brings an object into the schema of the behaviour in force.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    /// The plugin in force: it reads the object's schema.
    Reads,
    /// The *fallback*: a newer generation that was replaced by an older one, and stays loaded because it alone can turn what it
    /// wrote into something that the older one reads.
    Fallback {
        /// The schema version that it writes.
        writes: u32,
    },
}

impl<'a> From<&'a BehaviorManifest> for Schemas<'a> {
    fn from(behavior: &'a BehaviorManifest) -> Self {
        Schemas { own: behavior.schema, reads: &behavior.reads, writes: &behavior.writes }
    }
}

impl<'a> From<&'a Behavior> for Schemas<'a> {
    fn from(behavior: &'a Behavior) -> Self {
        Schemas { own: behavior.schema(), reads: behavior.reads(), writes: behavior.writes() }
    }
}

impl Schemas<'_> {
    /// Whether it can work with slots of this version.
    pub fn can_read(self, schema: u32) -> bool {
        schema == self.own || self.reads.contains(&schema)
    }

    /// How slots of another version come into its own, if they can.
    pub fn way_from(self, schema: u32, fallback: Option<Schemas<'_>>) -> Option<Way> {
        if self.can_read(schema) {
            return Some(Way::Reads);
        }
        let fallback = fallback.filter(|fallback| fallback.can_read(schema))?;
        let readable = fallback.writes.iter().copied().filter(|written| self.can_read(*written));
        // Straight if it can be, else through the newest version, which has lost the least.
        let writes = readable.max_by_key(|written| (*written == self.own, *written))?;
        Some(Way::Fallback { writes })
    }

    /// Whether objects that came into the schema of `next` could come back, were `self` put in force again with `next` as its
    /// fallback.
    pub fn can_return_from(self, next: Schemas<'_>) -> bool {
        self.way_from(next.own, Some(next)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn schemas<'a>(own: u32, reads: &'a [u32], writes: &'a [u32]) -> Schemas<'a> {
        Schemas { own, reads, writes }
    }

    #[test]
    fn the_plugin_in_force_comes_before_the_fallback() {
        let (newer, older) = (schemas(3, &[1, 2], &[1, 2]), schemas(2, &[1], &[]));
        assert_eq!(newer.way_from(1, None), Some(Way::Reads));
        assert_eq!(older.way_from(1, Some(newer)), Some(Way::Reads));
        assert_eq!(older.way_from(3, Some(newer)), Some(Way::Fallback { writes: 2 }));
        assert_eq!(older.way_from(3, None), None);
    }

    #[test]
    fn a_fallback_goes_through_what_both_know() {
        let newer = schemas(4, &[3], &[1, 2]);
        assert_eq!(schemas(5, &[1, 2], &[]).way_from(4, Some(newer)), Some(Way::Fallback { writes: 2 }));
        // What the fallback itself would first have to read.
        assert_eq!(schemas(1, &[], &[]).way_from(3, Some(newer)), Some(Way::Fallback { writes: 1 }));
        assert_eq!(schemas(1, &[], &[]).way_from(5, Some(newer)), None);
        assert_eq!(schemas(3, &[], &[]).way_from(4, Some(newer)), None);
    }

    #[test]
    fn a_swap_can_be_undone_if_someone_takes_the_objects_back() {
        let old = schemas(1, &[], &[]);
        assert!(old.can_return_from(schemas(1, &[], &[])));
        assert!(old.can_return_from(schemas(2, &[1], &[1])));
        assert!(!old.can_return_from(schemas(2, &[1], &[])));
        assert!(schemas(2, &[1], &[]).can_return_from(schemas(1, &[], &[])), "it reads what the older one leaves");
    }
}
