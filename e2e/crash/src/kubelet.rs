//! A stand-in for the kubelet: it registers the plugin whenever it finds it, and repeats each call until it is answered.
//!
//! The real one waits a minute between two calls for a pod; here the next follows at once, on the plugin that was started
//! in the place of the dead one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tessera_proto::client;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::dra::v1::{NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::pluginregistration::{InfoRequest, RegistrationStatus};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::claims::reference;
use crate::failure::Failure;
use crate::node::Node;
use crate::process::Process;

/// For everything together that one call needs, deaths and starts included. It takes a second; but this goes on with what others
/// leave of the processor.
const LIMIT: Duration = Duration::from_mins(3);

/// Small against what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The devices of each claim, as the plugin names them, or its error.
pub(crate) type Answers = BTreeMap<String, Result<String, String>>;

impl Node<'_> {
    /// Sees to it that a plugin runs and is registered. A dead one is followed by one that lives.
    pub(crate) async fn attend(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut running = self.running.lock().await;
        loop {
            if running.process.as_ref().is_none_or(Process::has_ended) {
                if running.process.take().is_some() {
                    running.deaths += 1;
                    if running.deaths > 1 || self.was_killed()?.is_none() {
                        return Err(Failure::Ended(self.last_words()));
                    }
                    self.check()?;
                }
                running.process = Some(self.start()?);
                running.registered = false;
            }
            let is_dying = running.deaths == 0 && self.was_killed()?.is_some();
            if !is_dying && (running.registered || self.register().await.is_ok()) {
                running.registered = true;
                return Ok(());
            }
            self.pause("register", begun).await?;
        }
    }

    async fn register(&self) -> Result<(), Status> {
        let socket = self.sockets.registration.as_socket_path();
        let channel = client::connect(socket, LIMIT).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut registration = RegistrationClient::new(channel);
        registration.get_info(InfoRequest {}).await?;
        let status = RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        registration.notify_registration_status(status).await?;
        Ok(())
    }

    async fn until_answered<T>(
        &self,
        what: &'static str,
        call: impl AsyncFn(DraPluginClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        loop {
            self.attend().await?;
            if let Ok(channel) = client::connect(&self.sockets.dra, LIMIT).await
                && let Ok(answer) = call(DraPluginClient::new(channel)).await
            {
                return Ok(answer.into_inner());
            }
            self.pause(what, begun).await?;
        }
    }

    /// Calls for these claims in one request until it is answered, and tells the answers.
    pub(crate) async fn try_prepare(&self, claims: &[&str]) -> Result<Answers, Failure> {
        let request = NodePrepareResourcesRequest {
            claims: claims.iter().map(|name| reference(name)).collect(),
        };
        let answer = self
            .until_answered("prepare", async |mut plugin| {
                plugin.node_prepare_resources(request.clone()).await
            })
            .await?;
        let told = answer.claims.into_iter().map(|(uid, answer)| {
            let devices = format!("{:?}", answer.devices);
            let outcome = if answer.error.is_empty() {
                Ok(devices)
            } else {
                Err(answer.error)
            };
            (uid, outcome)
        });
        Ok(told.collect())
    }

    /// The same, where each must be prepared.
    pub(crate) async fn prepare(
        &self,
        claims: &[&str],
    ) -> Result<BTreeMap<String, String>, Failure> {
        let answers = self.try_prepare(claims).await?.into_iter();
        answers
            .map(|(claim, outcome)| match outcome {
                Ok(devices) => Ok((claim, devices)),
                Err(error) => Err(Failure::Refused {
                    call: "prepare",
                    claim,
                    error,
                }),
            })
            .collect()
    }

    /// Calls for these claims in one request until it is answered; each must be unprepared.
    pub(crate) async fn unprepare(&self, claims: &[&str]) -> Result<(), Failure> {
        let request = NodeUnprepareResourcesRequest {
            claims: claims.iter().map(|name| reference(name)).collect(),
        };
        let answer = self
            .until_answered("unprepare", async |mut plugin| {
                plugin.node_unprepare_resources(request.clone()).await
            })
            .await?;
        let refused = answer
            .claims
            .into_iter()
            .find(|(_, answer)| !answer.error.is_empty());
        match refused {
            Some((claim, answer)) => {
                let error = answer.error;
                Err(Failure::Refused {
                    call: "unprepare",
                    claim,
                    error,
                })
            }
            None => Ok(()),
        }
    }

    /// Waits until something holds, with a plugin running all the while.
    pub(crate) async fn until(
        &self,
        what: &'static str,
        holds: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        while !holds() {
            self.attend().await?;
            self.pause(what, begun).await?;
        }
        Ok(())
    }

    async fn pause(&self, what: &'static str, begun: Instant) -> Result<(), Failure> {
        if begun.elapsed() > LIMIT {
            return Err(self.late(what, LIMIT));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        Ok(())
    }
}
