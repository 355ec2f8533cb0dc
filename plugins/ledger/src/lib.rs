//! Accounts, and a book that moves money between them.
//!
//! A transfer is one message to the book, which sends one to each of the two accounts. Either all of it happens or nothing, so
//! the sum over all accounts stays what was paid in when they were opened. Amounts are counted in the smallest unit of the
//! currency.

use std::collections::BTreeMap;

use theseus_plugin::{Counting, prelude::*};

/// A book of accounts.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Ledger {
    /// What was paid in when accounts were opened.
    issued: i64,
    /// The accounts by the name of their owner.
    accounts: BTreeMap<String, Ref<Account>>,
}

/// What an audit found.
#[data]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audit {
    /// How many accounts there are.
    pub accounts: u64,
    /// What was paid in.
    pub issued: i64,
    /// What the accounts hold together.
    pub held: i64,
    /// Whether the two are the same.
    pub balanced: bool,
}

#[methods]
impl Ledger {
    /// Opens an account that holds `initial`.
    pub fn open(&mut self, cx: &mut Context, name: String, initial: i64) -> Result<Ref<Account>> {
        not_negative(initial)?;
        if name.is_empty() {
            return Err(Error::refused("no_name", "an account needs a name"));
        }
        if self.accounts.contains_key(&name) {
            return Err(Error::refused("account_exists", format!("{name} has an account already")));
        }
        self.issued = added(self.issued, initial)?;
        let account = cx.create(&Account { balance: initial })?;
        self.accounts.insert(name, account);
        Ok(account)
    }

    /// Moves `amount` from one account to another.
    pub fn transfer(&mut self, cx: &mut Context, from: &str, to: &str, amount: i64) -> Result<()> {
        not_negative(amount)?;
        let (source, target) = (self.find(from)?, self.find(to)?);
        if source == target {
            return Err(Error::refused("same_account", format!("{from} cannot transfer to the same account")));
        }
        let _left: i64 = cx.send(source, "withdraw", (amount,))?;
        let _now: i64 = cx.send(target, "deposit", (amount,))?;
        Ok(())
    }

    /// The account of `name`.
    pub fn account(&self, name: &str) -> Result<Ref<Account>> {
        self.find(name)
    }

    /// What the account of `name` holds.
    pub fn balance(&self, cx: &mut Context, name: &str) -> Result<i64> {
        cx.send(self.find(name)?, "balance", ())
    }

    /// Whose accounts there are.
    pub fn owners(&self) -> Vec<&str> {
        self.accounts.keys().map(String::as_str).collect()
    }

    /// What all accounts hold together; each is asked.
    pub fn total(&self, cx: &mut Context) -> Result<i64> {
        let mut total = 0;
        for account in self.accounts.values() {
            total = added(total, cx.send(*account, "balance", ())?)?;
        }
        Ok(total)
    }

    /// Compares what the accounts hold with what was paid in. They differ only if somebody went past the book and told an
    /// account itself to deposit or withdraw.
    pub fn audit(&self, cx: &mut Context) -> Result<Audit> {
        let held = self.total(cx)?;
        let accounts = self.accounts.len() as u64;
        Ok(Audit { accounts, issued: self.issued, held, balanced: held == self.issued })
    }

    fn find(&self, name: &str) -> Result<Ref<Account>> {
        let account = self.accounts.get(name).copied();
        account.ok_or_else(|| Error::refused("no_account", format!("{name} has no account")))
    }
}

/// An account, which never holds less than nothing.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Account {
    /// What it holds.
    balance: i64,
}

#[methods]
impl Account {
    /// What it holds.
    pub fn balance(&self) -> i64 {
        self.balance
    }

    /// Adds `amount` and returns what the account holds now.
    pub fn deposit(&mut self, amount: i64) -> Result<i64> {
        not_negative(amount)?;
        self.balance = added(self.balance, amount)?;
        Ok(self.balance)
    }

    /// Takes `amount` out and returns what is left.
    pub fn withdraw(&mut self, amount: i64) -> Result<i64> {
        not_negative(amount)?;
        if amount > self.balance {
            let message = format!("the account holds {} and cannot give {amount}", self.balance);
            return Err(Error::refused("overdraft", message));
        }
        self.balance -= amount;
        Ok(self.balance)
    }
}

fn not_negative(amount: i64) -> Result<()> {
    if amount < 0 {
        return Err(Error::refused("negative_amount", format!("an amount is not negative, and {amount} is")));
    }
    Ok(())
}

fn added(balance: i64, amount: i64) -> Result<i64> {
    let sum = balance.checked_add(amount);
    sum.ok_or_else(|| Error::refused("overflow", format!("{balance} and {amount} are more than a balance can hold")))
}

/// Counts, so that the host can tell when an account book leaks.
#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

plugin! { name: "ledger", behaviors: [Ledger, Account], allocator: ALLOCATOR }
