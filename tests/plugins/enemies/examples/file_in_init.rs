//! Makes the file named by `THESEUS_FIXTURE_TOUCH` when it is initialised.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn init(_: HostTableRef) -> Outcome {
    let path = std::env::var_os("THESEUS_FIXTURE_TOUCH").expect("the test says which");
    match std::fs::write(path, "here I am") {
        Ok(()) => RResult::ROk(()),
        Err(error) => {
            RResult::RErr(Failure::new(theseus_abi::FailureCode::REFUSED, format!("no file for me: {error}")))
        }
    }
}

plugin_by_hand!(1, root { init }, table {});
