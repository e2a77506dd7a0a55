//! postStart and preStop hooks.

use crate::probe::run::{Target, http_get};
use crate::probe::state::Outcome;
use k8s_openapi::api::core::v1::LifecycleHandler;
use naru_runtime::RuntimeError;
use std::time::Duration;

/// Runs a hook, for `limit` at most.
pub(crate) async fn run(target: &Target, hook: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let args = action.command.clone().unwrap_or_default();
        return match target.runtime.exec_probe(&target.container_id, &args, limit).await {
            Ok(result) if result.exit_code == 0 => Ok(()),
            Ok(result) => Err(format!(
                "command '{}' exited with {}: {}",
                args.join(" "),
                result.exit_code,
                String::from_utf8_lossy(&result.output).trim()
            )),
            Err(RuntimeError::Timeout(_)) => Err(format!("command '{}' timed out", args.join(" "))),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &hook.http_get {
        return match http_get(target, action, limit, "kube-lifecycle/1.36").await {
            // Any answer will do: hooks are told, not asked.
            Outcome::Success | Outcome::Warning(_) => Ok(()),
            Outcome::Failure(text) if text.starts_with("HTTP probe failed") => Ok(()),
            Outcome::Failure(text) | Outcome::Unknown(text) => Err(text),
        };
    }
    if let Some(action) = &hook.sleep {
        let wanted = Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(limit)).await;
    }
    Ok(())
}
