//! What must hold in every state (docs/failover.md, section 10).

use super::state::{NOBODY, State, covers, members};

/// What was acknowledged is on the primary of the newest epoch: in its log once it has opened, on its disk before.
pub(super) fn nothing_lost(state: &State) -> bool {
    let holder = state.primary();
    covers(if state.record.opened { holder.log } else { holder.held() }, state.acknowledged)
}

/// Nobody but the record's holder could return a commit: not to a client, and not to root, who passes `read_only`.
pub(super) fn one_returns(state: &State) -> bool {
    members().filter(|n| *n != state.record.holder).all(|n| !could_return(state, n))
}

/// A commit could return on this member now, or as soon as a replica connects.
fn could_return(state: &State, n: u8) -> bool {
    let member = state.member(n);
    let heard = || members().any(|replica| replica != n && state.receives_from(replica, n));
    member.source == NOBODY && (member.open && !member.waits || heard())
}

/// `solo` is clear: an acker holds everything that was ever acknowledged.
pub(super) fn proven(state: &State) -> bool {
    state.record.solo || State::of(state.record.ackers).any(|n| covers(state.member(n).held(), state.acknowledged))
}
