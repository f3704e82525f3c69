//! The controller with a decision that is broken on purpose, named by `MUTANT`: shows that the chaos runs notice (docs/chaos.md).

use std::process::ExitCode;

use topology::mutant::{self, Mutant};

fn main() -> ExitCode {
    let name = std::env::var("MUTANT").unwrap_or_default();
    let Some((name, broken)) = Mutant::NAMED.iter().find(|(known, _)| *known == name) else {
        let names = Mutant::NAMED.map(|(name, _)| name).join(", ");
        eprintln!("mariadb-operator-mutants: MUTANT={name:?} is none of {names}");
        return ExitCode::FAILURE;
    };
    eprintln!("mariadb-operator-mutants: {name}: THIS OPERATOR LOSES DATA, for tests only");
    mutant::set(*broken);
    operator::main()
}
