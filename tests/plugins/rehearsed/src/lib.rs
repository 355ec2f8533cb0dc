//! The version whose doings are recorded.

use theseus_plugin::prelude::*;

/// Does what it is told.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Actor {
    count: i64,
    notes: Vec<String>,
}

#[methods]
impl Actor {
    /// Counts, in a way.
    pub fn act(&mut self, cx: &mut Context, how: &str) -> Result<i64> {
        self.count += 1;
        match how {
            "chance" => self.count += (cx.random()? % 1_000_000) as i64 + cx.now()?.us() as i64 % 1_000,
            // Not part of any object: what depends on it cannot be repeated.
            "uncertain" => self.count += i64::from(std::process::id()),
            "refuse" | "refuse otherwise" | "allow" => return Err(Error::refused("unwilling", "it was told to refuse")),
            "create" => {
                let name = format!("child/{}", self.count);
                if cx.find(&name)?.is_none() {
                    let child = cx.create(&Actor { count: self.count, notes: vec![name.clone()] })?;
                    cx.name(&name, child)?;
                    let heir = cx.derive(child)?;
                    let _count: i64 = cx.send(heir, "act", ("heir",))?;
                }
            }
            "note" => self.notes.push(format!("note {}", self.count)),
            _ => {}
        }
        Ok(self.count)
    }

    /// The count.
    pub fn count(&self) -> i64 {
        self.count
    }
}

plugin! { name: "rehearsed", behaviors: [Actor] }
