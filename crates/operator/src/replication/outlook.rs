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
