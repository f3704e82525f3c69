//! A container's image, for as long as it takes to get it.

use std::time::Duration;

use tokio::time::Instant;

use super::container::ContainerTask;
use super::shared::Stop;
use crate::images::reference::Reference;
use crate::images::{Image, ImageError};

impl ContainerTask {
    /// Gets the image, for as long as that takes; `None` when the pod is told to end before.
    pub(super) async fn pull(&mut self) -> Option<Image> {
        let name = self.container.image.clone().unwrap_or_default();
        let policy = self.container.image_pull_policy.clone();
        let images = self.shared.context.images.clone();
        let always = match policy.as_deref() {
            Some(policy) => policy == "Always",
            None => Reference::parse(&name).is_some_and(|r| r.pull_always_by_default()),
        };
        let may_pull = policy.as_deref() != Some("Never");
        let mut failures = 0u32;
        loop {
            let present = images.is_present(&name);
            if !present && may_pull {
                self.event(false, "Pulling", format!("Pulling image \"{name}\""));
            }
            let began = Instant::now();
            let progress = |line: &str| tracing::debug!(image = name, "{line}");
            let mut stop = self.stop.clone();
            let result = tokio::select! {
                result = images.ensure(&name, may_pull, progress) => result,
                _ = stop.wait_for(|stop| *stop != Stop::Run) => return None,
            };
            match result {
                Ok(image) => {
                    if present && !always {
                        self.event(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
                    } else {
                        let time = Duration::from_millis(began.elapsed().as_millis() as u64);
                        self.event(false, "Pulled", format!("Successfully pulled image \"{name}\" in {time:?}"));
                    }
                    if let Some(version) = &image.other_version {
                        let text = format!(
                            "image \"{name}\" runs MariaDB {version}: the sandbox has what Debian has of this series"
                        );
                        self.event(true, "ImageVersionDiffers", text);
                    }
                    return Some(image);
                }
                Err(error) => {
                    let (reason, message) = match &error {
                        ImageError::Invalid(_) => ("InvalidImageName", error.to_string()),
                        ImageError::NeverPull(_) => ("ErrImageNeverPull", error.to_string()),
                        _ => ("ErrImagePull", error.to_string()),
                    };
                    failures += 1;
                    self.event(true, "Failed", format!("Failed to pull image \"{name}\": {message}"));
                    self.event(true, "Failed", format!("Error: {reason}"));
                    self.wait_with(reason, Some(message.clone()));
                    if self.pause(Duration::from_millis(500)).await {
                        return None;
                    }
                    if reason == "ErrImagePull" {
                        self.event(false, "BackOff", format!("Back-off pulling image \"{name}\""));
                        let text = format!("Back-off pulling image \"{name}\": {reason}: {message}");
                        self.wait_with("ImagePullBackOff", Some(text));
                    }
                    let delay = self.shared.context.pace.crash_backoff.delay(failures + 1);
                    if self.pause(delay).await {
                        return None;
                    }
                }
            }
        }
    }
}
