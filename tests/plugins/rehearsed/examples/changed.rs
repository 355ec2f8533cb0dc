//! The next version: it has one slot more, and does some things otherwise.

use std::time::Duration;

use theseus_plugin::prelude::*;

/// Does what it is told.
#[behavior(version = 2)]
#[derive(Default)]
pub struct Actor {
    count: i64,
    notes: Vec<String>,
    doubled: i64,
}

/// The slots of version 1. What was derived may lack its own.
#[data]
#[derive(Default)]
struct ActorV1 {
    #[serde(default)]
    count: i64,
    #[serde(default)]
    notes: Vec<String>,
}

#[methods]
impl Actor {
    /// Counts, in a way.
    pub fn act(&mut self, cx: &mut Context, how: &str) -> Result<i64> {
        self.count += 1;
        match how {
            "chance" => self.count += (cx.random()? % 1_000_000) as i64 + cx.now()?.us() as i64 % 1_000,
            "uncertain" => self.count += 1,
            "refuse" => return Err(Error::refused("unwilling", "in other words")),
            "refuse otherwise" => return Err(Error::refused("impossible", "it was told to refuse")),
            "create" => {
                let name = format!("child/{}", self.count);
                if cx.find(&name)?.is_none() {
                    let (count, notes) = (self.count, vec![name.clone()]);
                    let child = cx.create(&Actor { count, notes, doubled: 2 * self.count })?;
                    cx.name(&name, child)?;
                    let heir = cx.derive(child)?;
                    let _count: i64 = cx.send(heir, "act", ("heir",))?;
                }
            }
            "note" => self.notes.push(format!("remark {}", self.count)),
            "fail" => return Err(Error::refused("worse", "the new version cannot do this")),
            "result" => {
                self.doubled = 2 * self.count;
                return Ok(-1);
            }
            "panic" => panic!("the new version panics"),
            "exit" => std::process::exit(7),
            "crash" => std::process::abort(),
            "hang" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "dawdle" => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        self.doubled = 2 * self.count;
        Ok(self.count)
    }

    /// The count.
    pub fn count(&self) -> i64 {
        self.count
    }

    #[migrate(from = 1)]
    fn from_v1(old: ActorV1) -> Result<Self> {
        Ok(Actor { count: old.count, notes: old.notes, doubled: 2 * old.count })
    }

    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<ActorV1> {
        Ok(ActorV1 { count: self.count, notes: self.notes.clone() })
    }
}

plugin! { name: "rehearsed", behaviors: [Actor] }
