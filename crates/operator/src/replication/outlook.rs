//! What would happen if the primary died now, in words and as a condition.

use topology::Forecast;
use topology::decision::Health;

/// For `status.replication.ifPrimaryFails`. `promises`: the durability keeps every acknowledged transaction.
pub(super) fn sentence(forecast: &Forecast, promises: bool) -> String {
    match forecast {
        Forecast::Failover { to, others } => {
            let others: Vec<&str> = others.iter().map(|member| member.0.as_str()).collect();
            let also = match others.is_empty() {
                true => "nobody else could".to_owned(),
                false => format!("so could {}", others.join(", ")),
            };
            let loss = if promises { "nothing would be lost" } else { "what was not yet replicated would be lost" };
            format!("{to} would take over ({also}); {loss}")
        }
        Forecast::Refused { reason, message } => format!("nobody would take over ({reason}): {message}"),
    }
}

/// Condition `SafeToFailover`.
pub(super) fn health(forecast: &Forecast, promises: bool) -> Health {
    match forecast {
        Forecast::Failover { .. } if promises => {
            Health { ok: true, reason: "CandidateReady", message: sentence(forecast, promises) }
        }
        Forecast::Failover { .. } => {
            Health { ok: false, reason: "MayLoseTransactions", message: sentence(forecast, promises) }
        }
        Forecast::Refused { reason, message: _ } => Health { ok: false, reason, message: sentence(forecast, promises) },
    }
}

/// Members that could take over now, the best first.
pub(super) fn candidates(forecast: &Forecast) -> Vec<String> {
    match forecast {
        Forecast::Failover { to, others } => std::iter::once(to).chain(others).map(ToString::to_string).collect(),
        Forecast::Refused { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::MemberName;

    #[test]
    fn in_words() {
        let member = |name: &str| MemberName(name.to_owned());
        let good = Forecast::Failover { to: member("db-2"), others: [member("db-1")].into() };
        assert_eq!(sentence(&good, true), "db-2 would take over (so could db-1); nothing would be lost");
        assert_eq!(candidates(&good), ["db-2", "db-1"]);
        assert_eq!((health(&good, true).ok, health(&good, false).reason), (true, "MayLoseTransactions"));
        let bad = Forecast::Refused { reason: "SoloPrimary", message: "m".into() };
        assert_eq!((health(&bad, true).ok, health(&bad, true).reason), (false, "SoloPrimary"));
    }
}
