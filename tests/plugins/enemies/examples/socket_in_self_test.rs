//! Wants to talk to others in its own test.

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    match std::net::UdpSocket::bind("127.0.0.1:0") {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::refused("no_socket", format!("there is no socket for me: {error}"))),
    }
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Counts.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy], self_test: self_test }
