//! Many runs, on all cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use topology::intent::Durability;

use crate::laws::Violation;
use crate::world::{Settings, Stats};

/// What the run of a seed is like: sizes, intensities and durabilities take turns.
pub fn settings(seed: u64) -> Settings {
    Settings {
        members: if seed % 4 == 3 { 2 } else { 3 },
        steps: 200,
        calm: [5, 10, 20][usize::try_from(seed % 3).unwrap_or(0)],
        losses: None,
        durability: if seed % 5 == 4 { Durability::Strict } else { Durability::Safe },
        mutant: None,
        story: false,
    }
}

/// Runs `count` seeds from `from` on: what happened in all of them, and the violation with the lowest seed that was found.
pub fn many(from: u64, count: u64, settings: impl Fn(u64) -> Settings + Sync) -> (Stats, Option<Box<Violation>>) {
    let next = AtomicU64::new(from);
    let sum = Mutex::new((Stats::default(), None::<Box<Violation>>));
    let lock = || sum.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || lock().1.is_some() {
                        return;
                    }
                    let result = crate::run(seed, &settings(seed));
                    let mut sum = lock();
                    match result {
                        Ok(stats) => sum.0.add(&stats),
                        Err(violation) => {
                            if sum.1.as_ref().is_none_or(|known| known.seed > violation.seed) {
                                sum.1 = Some(violation);
                            }
                        }
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}
