//! The checker, tried on made-up histories: it says nothing about a sound one, and names each way to be unsound.

use std::time::Duration;

use super::super::cluster::Failure;
use super::checker::check;
use super::history::{History, Member, Outcome, Remains, RowId, Term, Transaction, Write};

/// A trial needs no cluster.
type Trial = fn() -> Result<(), Failure>;

pub(crate) const TRIALS: &[(&str, Trial)] = &[
    ("chaos::checker::a_sound_history", || finds(|_, _| {}, &[])),
    ("chaos::checker::unknown_outcomes_may_be_there_or_not", || {
        finds(
            |history, remains| {
                history.writes[1].outcome = Outcome::Unknown;
                history.writes[2].outcome = Outcome::Unknown;
                take_away(remains, row(1, 3));
            },
            &[],
        )
    }),
    ("chaos::checker::a_lost_row", || {
        finds(
            |_, remains| take_away(remains, row(1, 2)),
            &["lost: row 1:2, acknowledged by server 1 at 0.025 s, is not on db-0, db-1"],
        )
    }),
    ("chaos::checker::a_row_lost_on_one_member_only", || {
        finds(
            |_, remains| remains.members[1].rows.retain(|found| *found != row(1, 2)),
            &["lost: row 1:2, acknowledged by server 1 at 0.025 s, is not on db-1"],
        )
    }),
    ("chaos::checker::a_duplicated_row", || {
        finds(|_, remains| remains.members[0].rows.push(row(1, 2)), &["duplicated: row 1:2 is 2 times on db-0"])
    }),
    ("chaos::checker::a_row_that_nobody_sent", || {
        finds(|_, remains| remains.members[1].rows.push(row(9, 9)), &["phantom: row 9:9 on db-1 was never sent"])
    }),
    ("chaos::checker::a_row_that_was_refused", || {
        finds(
            |history, remains| {
                history.writes[2].outcome = Outcome::Refused;
                remains.members[1].rows.retain(|found| *found != row(1, 3));
            },
            &["phantom: row 1:3 is on db-0, and its client was told that it failed"],
        )
    }),
    ("chaos::checker::a_row_that_a_reader_made_up", || {
        finds(|history, _| history.seen.push(row(1, 77)), &["phantom: a reader saw row 1:77, which was never sent"])
    }),
    ("chaos::checker::an_old_primary_goes_on_acknowledging", || {
        finds(
            // Sent to the first server after the second one had acknowledged something.
            |history, _| history.writes.push(write(row(2, 1), 1, 45, 46, Outcome::Unknown)),
            &[],
        )?;
        finds(
            |history, remains| {
                history.writes.push(write(row(2, 1), 1, 46, 47, Outcome::Acknowledged));
                for member in &mut remains.members {
                    member.rows.push(row(2, 1));
                }
            },
            &["two writers: row 2:1, sent at 0.046 s, was acknowledged by server 1: epoch 2 was server 2's by then, \
               and no later one was server 1's"],
        )
    }),
    ("chaos::checker::a_primary_that_comes_back_may_acknowledge_again", || {
        finds(
            |history, remains| {
                history.writes.push(write(row(2, 1), 1, 55, 56, Outcome::Acknowledged));
                remains.terms.push(Term { epoch: 3, server_id: 1, start: 14 });
                for member in &mut remains.members {
                    member.rows.push(row(2, 1));
                    member.binlog.push(transaction(1, 15, &[row(2, 1)]));
                }
            },
            &[],
        )
    }),
    ("chaos::checker::acknowledgements_that_overlap_at_a_change_are_sound", || {
        finds(
            // Sent before the change, and its answer read after it.
            |history, remains| {
                history.writes.push(write(row(2, 1), 1, 29, 50, Outcome::Acknowledged));
                for member in &mut remains.members {
                    member.rows.push(row(2, 1));
                }
            },
            &[],
        )
    }),
    ("chaos::checker::a_server_without_a_term", || {
        finds(
            |history, _| history.writes[3].server_id = 7,
            &["two writers: row 1:4, sent at 0.040 s, was acknowledged by server 7: epoch 1 was server 1's by then, \
               and no later one was server 7's"],
        )
    }),
    ("chaos::checker::a_stranger_in_a_binary_log", || {
        finds(
            |_, remains| remains.members[1].binlog.push(transaction(1, 15, &[])),
            &["two writers: db-1 has 0-1-15 in epoch 2, which is server 2's"],
        )
    }),
    ("chaos::checker::two_servers_wrote_in_one_place", || {
        finds(
            |_, remains| remains.members[1].binlog[3].server_id = 1,
            &[
                "two writers: at 0-*-14 stand server 2's on db-0 with rows [1:4] and server 1's on db-1 with rows [1:4]",
                "two writers: db-1 has 0-1-14 in epoch 2, which is server 2's",
            ],
        )
    }),
    ("chaos::checker::one_transaction_with_two_contents", || {
        finds(
            |_, remains| remains.members[1].binlog[0].rows.clear(),
            &["two writers: at 0-*-11 stand server 1's on db-0 with rows [1:1] and server 1's on db-1 with rows []"],
        )
    }),
    ("chaos::checker::a_member_that_was_copied_has_a_shorter_log", || {
        finds(|_, remains| drop(remains.members[1].binlog.drain(..3)), &[])
    }),
    ("chaos::checker::members_that_differ", || {
        finds(
            |_, remains| remains.members[1].fingerprint.replace_range(.., "checksum 43"),
            &["divergence: db-0 and db-1 differ: checksum 42 and checksum 43"],
        )
    }),
    ("chaos::checker::terms_that_run_backwards", || {
        finds(
            |_, remains| remains.terms.push(Term { epoch: 3, server_id: 2, start: 12 }),
            &["two writers: epoch 3 began before epoch 2"],
        )
    }),
];

fn row(client: u32, sequence: u64) -> RowId {
    RowId { client, sequence }
}

fn write(row: RowId, server_id: u32, sent: u64, ended: u64, outcome: Outcome) -> Write {
    Write { row, server_id, sent: Duration::from_millis(sent), ended: Duration::from_millis(ended), outcome }
}

fn transaction(server_id: u32, sequence: u64, rows: &[RowId]) -> Transaction {
    Transaction { domain: 0, server_id, sequence, rows: rows.to_vec() }
}

fn take_away(remains: &mut Remains, row: RowId) {
    for member in &mut remains.members {
        member.rows.retain(|found| *found != row);
    }
}

/// Three rows by server 1, one by server 2 after a change; all acknowledged, all there, on both members.
fn sound() -> (History, Remains) {
    let writes = (1..=4)
        .map(|n: u64| write(row(1, n), if n < 4 { 1 } else { 2 }, n * 10, n * 10 + 5, Outcome::Acknowledged))
        .collect();
    let member = |name: &str| Member {
        name: name.to_owned(),
        fingerprint: "checksum 42".to_owned(),
        rows: (1..=4).map(|n| row(1, n)).collect(),
        binlog: (1..=4).map(|n: u64| transaction(if n < 4 { 1 } else { 2 }, 10 + n, &[row(1, n)])).collect(),
    };
    let history = History { writes, seen: vec![row(1, 2), row(1, 4)], ..History::default() };
    let terms = vec![Term { epoch: 1, server_id: 1, start: 0 }, Term { epoch: 2, server_id: 2, start: 13 }];
    (history, Remains { members: vec![member("db-0"), member("db-1")], terms })
}

/// What the checker says when the sound history is spoilt.
fn finds(spoil: impl FnOnce(&mut History, &mut Remains), expected: &[&str]) -> Result<(), Failure> {
    let (mut history, mut remains) = sound();
    spoil(&mut history, &mut remains);
    let mut found: Vec<String> = check(&history, &remains).iter().map(ToString::to_string).collect();
    found.sort();
    let mut expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    expected.sort();
    if found == expected { Ok(()) } else { Err(format!("found {found:#?}, expected {expected:#?}")) }
}
