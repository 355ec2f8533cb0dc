//! The plugin that the kit's tests load: every way to write a method, a slot and a migration.

use theseus_plugin::prelude::*;

/// A gauge with a "unit" \ and a limit.
///
/// Second paragraph.
#[behavior(version = 3)]
#[derive(Default)]
pub struct Gauge {
    /// Where it stands.
    level: i64,
    #[allow(dead_code, reason = "it is here to be sorted before `level`, and for its raw name")]
    r#type: Option<String>,
    limit: Limit,
    peers: Vec<Ref<Gauge>>,
    a_slot_with_a_long_name: f64,
}

/// A slot's own type, with a default that is not all zeros.
#[data]
#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    top: i64,
    unit: String,
}

impl Default for Limit {
    fn default() -> Self {
        Limit { top: 100, unit: "l".to_owned() }
    }
}

/// The slots of version 2.
#[data]
struct GaugeV2 {
    level: i64,
    top: i64,
}

/// The slots of version 1: the level alone, and not always that.
#[data]
struct GaugeV1 {
    #[serde(default)]
    level: i64,
}

#[methods]
impl Gauge {
    /// Adds `by`, at most up to the limit.
    pub fn fill(&mut self, by: i64, force: Option<bool>) -> Result<i64> {
        let level = self.level.checked_add(by).ok_or("that is too much")?;
        if level > self.limit.top && force != Some(true) {
            return Err(Error::refused("spilled", format!("{level} is over {}", self.limit.top)));
        }
        self.level = level;
        Ok(level)
    }

    /// Where it stands.
    pub fn level(&self) -> i64 {
        self.level
    }

    /// The unit, borrowed from the slot.
    pub fn unit(&self) -> &str {
        &self.limit.unit
    }

    /// Takes a borrowed argument.
    pub fn set_unit(&mut self, unit: &str) {
        unit.clone_into(&mut self.limit.unit);
    }

    /// Takes and returns references.
    pub fn add_peer(&mut self, peer: Ref<Gauge>) -> Vec<Ref<Gauge>> {
        self.peers.push(peer);
        self.peers.clone()
    }

    /// Pours `n` into a peer.
    pub fn pour(&mut self, cx: &mut Context, n: i64, into: Ref<Self>) -> Result<i64> {
        self.level -= n;
        cx.send(into, "fill", (n,))
    }

    /// A peer's level, asked by name.
    pub fn level_of(&self, cx: &mut Context, peer: AnyRef) -> Result<i64, Error> {
        cx.send(peer, "level", ())
    }

    /// Everything that a context can do but sending.
    pub fn tour(&mut self, cx: &mut Context) -> Result<(Time, u64, Vec<AnyRef>)> {
        let made = cx.create(&Gauge { level: 5, ..Gauge::default() })?;
        let named = cx.create_named("other.Thing", ())?;
        let cloned = cx.clone_object(made)?;
        let derived = cx.derive(made)?;
        cx.name("made", made)?;
        let found = cx.find("made")?.ok_or("the name was just given")?;
        cx.unname("made")?;
        if cx.find("made")?.is_some() {
            return Err("the name was just freed".into());
        }
        cx.delete(cloned)?;
        let (bundle, reason) = ("next.tar".to_owned(), "it is time".to_owned());
        cx.request_upgrade(UpgradeRequest { bundle, reason })?;
        let objects = vec![cx.receiver(), made.cast(), named, derived.cast(), found];
        Ok((cx.now()?, cx.random()?, objects))
    }

    /// Gives itself a parent, and fills itself in the parent's way, twice as much.
    pub fn fill_as(&mut self, cx: &mut Context, parent: Ref<Gauge>, by: i64) -> Result<(i64, Vec<AnyRef>)> {
        cx.set_parents(cx.receiver(), &[parent.cast()])?;
        self.level += 1;
        let level: i64 = cx.resend_to(self, parent, "fill", (2 * by,))?;
        if cx.resend::<i64, _>(self, "fill", (1,)).is_ok() || self.level != level {
            return Err("this host needs a parent that is named, and gives the slots back".into());
        }
        Ok((cx.resend_query_to(self, parent, "level", ())?, cx.parents(cx.receiver())?))
    }

    /// Panics with `message`.
    pub fn burst(&mut self, message: String) {
        self.level = -1;
        assert!(message.is_empty(), "{message}");
    }

    /// Writes two log lines.
    pub fn say(&self, word: &str, n: u8) {
        log::info!("{word} {n}");
        log::warn!(target: "elsewhere", "plain");
    }

    #[migrate(from = 2)]
    fn from_v2(old: GaugeV2) -> Result<Self> {
        if old.top < 0 {
            return Err(Error::refused("bad_top", "a limit is not negative"));
        }
        Ok(Gauge { level: old.level, limit: Limit { top: old.top, ..Limit::default() }, ..Gauge::default() })
    }

    /// There were limits before they could be set.
    #[migrate(from = 1, to = 2)]
    fn v1_to_v2(old: GaugeV1) -> GaugeV2 {
        GaugeV2 { level: old.level, top: if old.level < 0 { -1 } else { 100 } }
    }

    #[migrate(from = 2, to = 1)]
    fn v2_to_v1(old: GaugeV2) -> Result<GaugeV1> {
        Ok(GaugeV1 { level: old.level })
    }

    #[migrate(to = 2)]
    fn to_v2(&self) -> Result<GaugeV2> {
        Ok(GaugeV2 { level: self.level, top: self.limit.top })
    }

    #[allow(dead_code, reason = "it shows that helpers are not methods")]
    fn helper(&self) -> i64 {
        self.level
    }
}

/// No slots at all.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Bell;

#[methods]
impl Bell {
    /// Does nothing.
    pub fn ring(&self) {}

    /// Changes nothing.
    pub fn strike(&mut self) {}
}

fn self_test() -> Result<()> {
    Err(Error::refused("fixture", "it is only a fixture"))
}

fn retire() -> Result<()> {
    panic!("a plugin may panic at the very end");
}

plugin! {
    name: "fixture",
    behaviors: [Gauge, Bell],
    capabilities: ["request_upgrade", "quote\"d"],
    requires: ["ledger.Account" = "^1.2", "odd.Thing" = ">=0.1, <3"],
    self_test: self_test,
    retire: retire,
}
