//! Many runs, on all cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use topology::intent::Durability;

use crate::laws::Violation;
use crate::world::{Settings, Stats};

/// What the run of a seed is like: sizes, intensities and durabilities take turns.
pub fn settings(seed: u64) -> Settings {
    Settings {
        seed,
        members: if seed % 4 == 3 { 2 } else { 3 },
        steps: 200,
        calm: [5, 10, 20][usize::try_from(seed % 3).unwrap_or(0)],
        more: None,
        durability: match seed % 10 {
            4 | 9 => Durability::Strict,
            7 => Durability::Available { semi_sync: seed % 20 == 7 },
            _ => Durability::Safe,
        },
        mutant: None,
        stop: None,
        story: false,
    }
}

/// Runs `count` of these from `from` on: what happened in all of them, and the first violation that was found, with its number.
pub fn many(
    from: u64,
    count: u64,
    settings: impl Fn(u64) -> Settings + Sync,
) -> (Stats, Option<(u64, Box<Violation>)>) {
    let next = AtomicU64::new(from);
    let sum = Mutex::new((Stats::default(), None::<(u64, Box<Violation>)>));
    let lock = || sum.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= from + count || lock().1.is_some() {
                        return;
                    }
                    let result = crate::run(&settings(run));
                    let mut sum = lock();
                    match result {
                        Ok(stats) => sum.0.add(&stats),
                        Err(violation) => {
                            if sum.1.as_ref().is_none_or(|(known, _)| *known > run) {
                                sum.1 = Some((run, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}
