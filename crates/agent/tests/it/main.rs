//! Agents against real MariaDB servers: each as process 1 of its own namespaces, in a root file system of Debian's packages.

mod changes;
mod guard;
mod harness;
mod history;
mod lease;
mod scenarios;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(harness::AS_AGENT).is_some() {
        return agent::main();
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Servers are large; two cores carry two scenarios.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let trials = match harness::lacking() {
        Some(why) => {
            harness::skipped(&format!("agents against real servers: {why}"));
            Vec::new()
        }
        None => scenarios::trials()
            .into_iter()
            .chain(changes::trials())
            .chain(history::trials())
            .chain(guard::trials())
            .chain(lease::trials())
            .collect(),
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}
