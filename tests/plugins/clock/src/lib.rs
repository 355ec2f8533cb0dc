//! Objects that post messages, count those that they get, and fail when they are told to.

use std::time::Duration;

use theseus_plugin::prelude::*;

/// A bell that remembers how it was rung.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Bell {
    /// What it was rung with, in order.
    rung: Vec<i64>,
    /// Whether it fails.
    broken: bool,
    /// The message that rings it again and again.
    timer: Option<AnyRef>,
}

#[methods]
impl Bell {
    /// Rings, unless it is broken.
    pub fn ring(&mut self, n: i64) -> Result<()> {
        if self.broken {
            return Err(Error::refused("broken", "the bell is broken"));
        }
        self.rung.push(n);
        Ok(())
    }

    /// How it was rung.
    pub fn rung(&self) -> Vec<i64> {
        self.rung.clone()
    }

    /// Breaks it, or mends it.
    pub fn set_broken(&mut self, broken: bool) {
        self.broken = broken;
    }

    /// Has itself rung after the commit, from high to low, each time by a message of its own.
    pub fn ring_down(&mut self, cx: &mut Context, n: i64) -> Result<()> {
        self.rung.push(n);
        if n > 0 {
            cx.post(cx.receiver(), "ring_down", (n - 1,)).send()?;
        }
        Ok(())
    }

    /// Has others rung and then fails, if it is told to.
    pub fn ring_all(&mut self, cx: &mut Context, bells: Vec<Ref<Bell>>, fail: bool) -> Result<()> {
        for (n, bell) in (0..).zip(bells) {
            cx.post(bell, "ring", (n,)).send()?;
        }
        if fail { Err(Error::refused("told_to", "it was told to fail")) } else { Ok(()) }
    }

    /// Has itself rung again and again.
    pub fn start(&mut self, cx: &mut Context, every_ms: u64, times: i64) -> Result<AnyRef> {
        let every = Duration::from_millis(every_ms);
        let timer = cx.post(cx.receiver(), "tick", (times,)).delay(every).every(every).send()?;
        self.timer = Some(timer);
        Ok(timer)
    }

    /// Rings, and stops the timer when it was rung often enough.
    pub fn tick(&mut self, cx: &mut Context, times: i64) -> Result<()> {
        self.rung.push(self.rung.len() as i64);
        if self.rung.len() as i64 >= times
            && let Some(timer) = self.timer.take()
            && !cx.cancel(timer)?
        {
            return Err(Error::refused("gone", "the timer is not there"));
        }
        Ok(())
    }
}

plugin! { name: "clock", behaviors: [Bell] }
