//! Objects that have parents, resend to them, and refer to each other.

use theseus_plugin::prelude::*;

/// What others resend to.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Account {
    balance: i64,
    /// No other behaviour here has this slot.
    log: Vec<i64>,
}

#[methods]
impl Account {
    /// Adds `n`, and keeps it in a slot that only accounts have.
    pub fn deposit(&mut self, n: i64) -> Result<i64> {
        self.balance += n;
        self.log.push(n);
        if n < 0 {
            return Err(Error::refused("negative", "a deposit is not negative"));
        }
        Ok(self.balance)
    }

    pub fn balance(&self) -> i64 {
        self.balance
    }

    pub fn log(&self) -> Vec<i64> {
        self.log.clone()
    }

    pub fn describe(&self) -> String {
        format!("holds {}", self.balance)
    }
}

/// An account with a bonus for each deposit.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Savings {
    balance: i64,
    bonus: i64,
}

#[methods]
impl Savings {
    pub fn deposit(&mut self, cx: &mut Context, n: i64) -> Result<i64> {
        self.bonus += 1;
        let balance: i64 = cx.resend(self, "deposit", (n + self.bonus,))?;
        if balance != self.balance {
            return Err(Error::refused("torn", format!("{balance} was answered, {} is here", self.balance)));
        }
        // What the parents' version made of a slot can be changed again, also back.
        self.balance += 100;
        let _: i64 = cx.resend(self, "deposit", (0,))?;
        self.balance -= 100;
        Ok(self.balance)
    }

    pub fn deposit_as(&mut self, cx: &mut Context, parent: AnyRef, n: i64) -> Result<i64> {
        cx.resend_to(self, parent, "deposit", (n,))
    }

    /// Goes on after a failure: what it changed itself stays, what the failed message changed does not.
    pub fn try_deposit(&mut self, cx: &mut Context, n: i64) -> Result<(String, i64)> {
        self.bonus += 1;
        let problem = cx.resend::<i64, _>(self, "deposit", (n,)).err().map(|error| error.kind().to_owned());
        Ok((problem.unwrap_or_default(), self.balance))
    }

    pub fn describe(&self, cx: &mut Context) -> Result<String> {
        let account: String = cx.resend_query(self, "describe", ())?;
        Ok(format!("{account}, with a bonus of {}", self.bonus))
    }

    /// A query that would change something through its parents.
    pub fn cheat(&self, cx: &mut Context) -> Result<i64> {
        cx.resend_query(self, "deposit", (1,))
    }

    /// Takes other parents while it runs.
    pub fn adopt(&mut self, cx: &mut Context, parents: Vec<AnyRef>) -> Result<Vec<AnyRef>> {
        self.bonus += 1;
        cx.set_parents(cx.receiver(), &parents)?;
        self.bonus += 1;
        cx.parents(cx.receiver())
    }
}

/// Adds interest before it resends.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Interest {
    rate: i64,
}

#[methods]
impl Interest {
    pub fn deposit(&mut self, cx: &mut Context, n: i64) -> Result<i64> {
        cx.resend(self, "deposit", (n * (1 + self.rate),))
    }
}

/// Has nothing itself.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Bare;

#[methods]
impl Bare {}

/// Remembers what nobody understood.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Recorder {
    seen: Vec<String>,
}

#[methods]
impl Recorder {
    pub fn seen(&self) -> Vec<String> {
        self.seen.clone()
    }

    pub fn does_not_understand(&mut self, selector: String, arguments: Value) -> Result<Value> {
        if selector == "explode" {
            return Err(Error::refused("exploded", "as asked for"));
        }
        self.seen.push(selector);
        Ok(arguments)
    }
}

/// Answers what nobody understood, and changes nothing.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Mirror;

#[methods]
impl Mirror {
    pub fn does_not_understand(&self, selector: String, arguments: Value) -> (String, Value) {
        (selector, arguments)
    }
}

/// Refers to others.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Node {
    next: Vec<AnyRef>,
}

#[methods]
impl Node {
    pub fn link(&mut self, to: AnyRef) {
        self.next.push(to);
    }

    /// Refers to an object of which it only has the number.
    pub fn guess(&mut self, id: u64) {
        self.next.push(AnyRef::new(ObjectId(id)));
    }

    pub fn unlink(&mut self) -> Vec<AnyRef> {
        std::mem::take(&mut self.next)
    }

    pub fn next(&self) -> Vec<AnyRef> {
        self.next.clone()
    }

    /// Makes `count` nodes, each referred to by the one made before it, and refers to the first.
    pub fn grow(&mut self, cx: &mut Context, count: u64) -> Result<()> {
        let mut first: Option<AnyRef> = None;
        for _ in 0..count {
            first = Some(cx.create(&Node { next: first.into_iter().collect() })?.cast());
        }
        self.next.extend(first);
        Ok(())
    }

    /// How many nodes follow in a row.
    pub fn length(&self, cx: &mut Context) -> Result<u64> {
        let (mut length, mut next) = (0, self.next.clone());
        while let Some(node) = next.pop() {
            length += 1;
            next = cx.send(node, "next", ())?;
        }
        Ok(length)
    }
}

plugin! {
    name: "kin",
    behaviors: [Account, Savings, Interest, Bare, Recorder, Mirror, Node],
}
