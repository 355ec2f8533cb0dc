//! What plugins require of each other: a behaviour, and a range of versions of the plugin that provides it.
//!
//! Judged is the whole set as it would be: what is offered may need something that is not there, and it may break something that
//! stays. Providers are loaded before those that require them, so a circle of requirements is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use crate::plugin::Inspection;

/// The plugins of a set by name, and whether each stays as it is.
pub(super) struct Members<'a> {
    members: BTreeMap<&'a str, (&'a Inspection, bool)>,
    providers: BTreeMap<&'a str, &'a str>,
}

impl<'a> Members<'a> {
    /// The set that `offered` would make of `present`.
    pub(super) fn of(
        present: impl IntoIterator<Item = &'a Inspection>,
        offered: impl IntoIterator<Item = &'a Inspection>,
    ) -> Members<'a> {
        let mut members = BTreeMap::new();
        let named = |inspection: &'a Inspection, stays| (inspection.manifest.name.as_str(), (inspection, stays));
        members.extend(present.into_iter().map(|inspection| named(inspection, true)));
        members.extend(offered.into_iter().map(|inspection| named(inspection, false)));
        let provided = members.iter().flat_map(|(name, (inspection, _))| {
            inspection.manifest.behaviors.iter().map(|behavior| (behavior.name.as_str(), *name))
        });
        let providers = provided.collect();
        Members { members, providers }
    }

    /// The requirements that would not be met.
    pub(super) fn unmet(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (plugin, (inspection, stays)) in &self.members {
            for dependency in &inspection.requires {
                let (plugin, behavior) = ((*plugin).to_owned(), dependency.behavior.clone());
                let range = dependency.range.to_string();
                let Some(provider) = self.providers.get(&*behavior).copied() else {
                    problems.push(Problem::NotProvided { plugin, behavior, range });
                    continue;
                };
                let version = &self.members[provider].0.version;
                if provider == plugin || dependency.range.matches(version) {
                    continue;
                }
                let (provider, version) = (provider.to_owned(), version.to_string());
                problems.push(if *stays {
                    Problem::BreaksDependent { plugin, behavior, range, provider, version }
                } else {
                    Problem::WrongVersion { plugin, behavior, range, provider, version }
                });
            }
        }
        problems
    }

    /// The names in an order in which each comes after those that it requires.
    ///
    /// # Errors
    ///
    /// A circle: each requires the next, and the last the first.
    pub(super) fn arrange(&self) -> Result<Vec<String>, Vec<String>> {
        let (mut done, mut order) = (BTreeSet::new(), Vec::new());
        for name in self.members.keys() {
            self.visit(name, &mut Vec::new(), &mut done, &mut order)?;
        }
        Ok(order)
    }

    /// `path` are those that led here, of which each requires the next; it cannot be longer than the set.
    fn visit(
        &self,
        name: &'a str,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
        order: &mut Vec<String>,
    ) -> Result<(), Vec<String>> {
        if done.contains(name) {
            return Ok(());
        }
        if let Some(start) = path.iter().position(|other| *other == name) {
            return Err(path[start..].iter().map(|name| (*name).to_owned()).collect());
        }
        path.push(name);
        for dependency in &self.members[name].0.requires {
            if let Some(provider) = self.providers.get(&*dependency.behavior).copied()
                && provider != name
            {
                self.visit(provider, path, done, order)?;
            }
        }
        path.pop();
        done.insert(name);
        order.push(name.to_owned());
        Ok(())
    }
}

/// Sorts plugins so that each comes after those that it requires, as far as that can be.
pub fn sort_providers_first<T>(plugins: &mut [T], inspection: impl Fn(&T) -> &Inspection) {
    let order = Members::of([], plugins.iter().map(&inspection)).arrange().unwrap_or_default();
    plugins.sort_by_key(|it| order.iter().position(|name| *name == inspection(it).manifest.name));
}

#[cfg(test)]
mod tests {
    use semver::{Version, VersionReq};
    use theseus_abi::{AbiRange, BehaviorManifest, Manifest};

    use super::*;
    use crate::plugin::{Dependency, Digest};

    /// A plugin that provides `NAME.It`.
    fn plugin(name: &str, version: &str, requires: &[(&str, &str)]) -> Inspection {
        let manifest = Manifest {
            name: name.into(),
            version: version.into(),
            abi: AbiRange { min: 1, max: 1 },
            layout: String::new(),
            behaviors: vec![BehaviorManifest { name: format!("{name}.It"), schema: 1, reads: vec![], writes: vec![] }],
            rustc: String::new(),
            panic: String::new(),
            target: String::new(),
            capabilities: vec![],
            requires: vec![],
        };
        let dependency = |(behavior, range): &(&str, &str)| Dependency {
            behavior: (*behavior).into(),
            range: VersionReq::parse(range).unwrap(),
        };
        Inspection {
            digest: Digest::of(name.as_bytes()),
            manifest,
            version: Version::parse(version).unwrap(),
            requires: requires.iter().map(dependency).collect(),
            capabilities: Default::default(),
            warnings: vec![],
        }
    }

    fn problems(present: &[Inspection], offered: &[Inspection]) -> Vec<String> {
        Members::of(present, offered).unmet().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn what_is_required_has_to_be_there_in_the_right_version() {
        let till = plugin("till", "1.0.0", &[("ledger.It", "^1.2")]);
        let none = problems(&[], std::slice::from_ref(&till));
        assert!(matches!(&*none, [one] if one.contains("`ledger.It`") && one.contains("add the file")), "{none:?}");
        let old = problems(&[plugin("ledger", "1.1.0", &[])], std::slice::from_ref(&till));
        assert!(matches!(&*old, [one] if one.contains("1.1.0") && one.contains("^1.2")), "{old:?}");
        assert!(problems(&[plugin("ledger", "1.3.0", &[])], std::slice::from_ref(&till)).is_empty());
        // Offered together.
        assert!(
            problems(&[plugin("ledger", "1.1.0", &[])], &[till.clone(), plugin("ledger", "1.2.0", &[])]).is_empty()
        );
        let own = plugin("alone", "1.0.0", &[("alone.It", "^2")]);
        assert!(problems(&[], &[own]).is_empty(), "what a plugin provides itself is as it is");
    }

    #[test]
    fn what_stays_must_not_be_broken() {
        let present = [plugin("till", "1.0.0", &[("ledger.It", "^1.2")]), plugin("ledger", "1.2.0", &[])];
        let members = [plugin("ledger", "2.0.0", &[])];
        let found = Members::of(&present, &members).unmet();
        assert!(matches!(&*found, [Problem::BreaksDependent { plugin, .. }] if plugin == "till"), "{found:?}");
    }

    #[test]
    fn providers_come_first_and_circles_are_named() {
        let (a, b, c) =
            (plugin("a", "1.0.0", &[("b.It", "*")]), plugin("b", "1.0.0", &[("c.It", "*")]), plugin("c", "1.0.0", &[]));
        assert_eq!(Members::of([&a, &b], [&c]).arrange().unwrap(), ["c", "b", "a"]);
        let mut all = [&a, &c, &b];
        sort_providers_first(&mut all, |it| it);
        assert_eq!(all.map(|it| it.manifest.name.as_str()), ["c", "b", "a"]);
        let circle = plugin("c", "1.0.0", &[("b.It", "*")]);
        assert_eq!(Members::of([&a, &b], [&circle]).arrange().unwrap_err(), ["b", "c"]);
    }
}
