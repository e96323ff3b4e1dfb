//! Every scenario, in the order in which they run, with the sentence that each proves.

use crate::ground::Ground;
use crate::groups::{
    api_away, cleanup, configuration, damage, domain_events, domains, driver, dynamic_mig, events,
    guide, hostile, isolation, kubelet, mig, mixes, odd_claims, old_kubelet, plugin, policies,
    racks, reboot, rights, selection, sessions, shapes, share_status, shares, sharing, survival,
    takeover, time_slices, uninstall, upgrade, versions, webhook, whole_gpus,
};
use crate::installation::Installation;
use crate::need::Need;
use crate::scenario::Scenario;

/// Names a scenario after its function, so that neither can be without the other. What follows `; on` is the cluster that it
/// runs on, if that is not [`Ground::Mixed`]; what follows `; with` is how the product is installed meanwhile, if that is not
/// [`Installation::Usual`]; what follows `; needs` is what not every release of Kubernetes serves, and what
/// follows `; long` is what a long form does more.
macro_rules! scenarios {
    ($($group:ident :: $function:ident => $guarantee:literal
        $(; on $ground:ident)? $(; with $installation:ident)? $(; needs [$($need:ident),+])? $(; long $long:literal)?,)*) => {
        &[$(Scenario {
            name: stringify!($function),
            guarantee: $guarantee,
            ground: scenarios!(@on $($ground)?),
            installation: scenarios!(@with $($installation)?),
            needs: &[$($(Need::$need),+)?],
            long: scenarios!(@long $($long)?),
            run: $group::$function,
        }),*]
    };
    (@on) => { Ground::Mixed };
    (@on $ground:ident) => { Ground::$ground };
    (@with) => { Installation::Usual };
    (@with $installation:ident) => { Installation::$installation };
    (@long) => { None };
    (@long $long:literal) => { Some($long) };
}

/// All scenarios, those of a cluster together. The one that uninstalls the product is the last of its cluster.
pub const SCENARIOS: &[Scenario] = scenarios! {
    whole_gpus::one_pod_with_one_gpu_sees_exactly_that_gpu
        => "A pod with one GPU sees that GPU and no other: the UUID that nvidia-smi lists is that of its claim's device.",
    whole_gpus::two_pods_get_two_different_gpus
        => "Two pods with a claim each never get the same GPU.",
    whole_gpus::three_gpus_in_one_claim_are_three_different_gpus
        => "A claim of three GPUs gives the pod three different GPUs, exactly those that were allocated.",
    whole_gpus::the_ninth_pod_waits_with_a_reason_and_runs_when_a_gpu_is_free
        => "Of nine pods on eight GPUs, eight run; the ninth is pending with a reason and gets the first GPU that is free.",
    sharing::two_containers_of_a_pod_share_the_gpu_of_one_claim
        => "Two containers of a pod that name one claim see the same GPU.",
    sharing::two_pods_share_the_gpu_of_one_claim
        => "Two pods that name one claim see the same GPU, and it stays with one when the other ends.",
    domains::a_pod_gets_the_channel_of_its_domain_and_no_other
        => "Of two domains on a node each pod has the IMEX channel of its own domain, and no other."
        ; needs [ResourceV1],
    domains::a_claim_that_names_another_domain_than_its_slot_is_refused
        => "A claim that names another domain than that of its slot, or is in another namespace, is refused with the reason."
        ; needs [ResourceV1],
    sessions::the_session_of_a_clique_is_ready_before_a_pod_asks_and_outlives_what_runs_it
        => "The NVLink session of a clique is ready before a pod asks for it; it outlives the death of what supervises it, and a dead nvidia-imex is started again."
        ; needs [ResourceV1],
    sessions::a_pod_waits_for_the_session_of_its_node_and_a_peer_that_is_away_is_named
        => "A pod on a node whose NVLink session is not ready waits until it is, and the clique names the node; pods of other nodes do not wait."
        ; needs [ResourceV1],
    sessions::a_session_host_says_how_its_own_node_is_and_nothing_else
        => "A session host cannot say how the session of another node is, nor change anything else of a clique, and one whose token names no node says nothing."
        ; needs [ResourceV1],
    isolation::a_container_that_asks_for_all_gpus_sees_only_the_claimed_one
        => "NVIDIA_VISIBLE_DEVICES=all, of the image or of the pod, gives a container no GPU beyond the claimed one.",
    isolation::a_container_without_a_claim_sees_no_gpu
        => "A container without a claim has no GPU device node and no nvidia-smi, even beside one with a claim.",
    selection::a_selector_by_product_name_lands_on_the_node_that_has_it
        => "A selector by product name takes a pod to the node with that GPU.",
    shapes::selectors_by_attribute_and_capacity_find_a_gpu_that_has_them
        => "Selectors by architecture, driver version and memory give a pod a GPU that has them, and that is what it sees.",
    shapes::gpus_that_must_agree_in_an_attribute_do
        => "With matchAttribute four GPUs are of one NUMA node, and two are behind one PCIe root.",
    shapes::gpus_that_must_differ_in_an_attribute_do
        => "With distinctAttribute two GPUs are of two NUMA nodes."
        ; needs [DistinctAttribute],
    shapes::the_first_entry_of_a_prioritized_list_that_can_be_had_is_taken
        => "Of a prioritized list the first entry that can be had is taken, and the container that names the request sees its GPUs."
        ; needs [PrioritizedList],
    shapes::a_claim_of_all_gpus_has_every_gpu_of_a_node
        => "A claim with allocationMode All has every GPU of its node, and its pod sees them.",
    shapes::admin_access_sees_gpus_in_use_and_disturbs_nobody
        => "Admin access needs the namespace's label, shows GPUs in use, and hinders neither their users nor newcomers, nor does its end."
        ; needs [AdminAccess],
    shapes::each_container_sees_the_gpus_of_the_request_that_it_names
        => "Of one claim with several requests each container sees the GPUs of the request that it names, or all if it names none.",
    shapes::a_limit_of_gpus_is_served_without_a_claim_of_the_users
        => "nvidia.com/gpu: 2 as a limit gives exactly that container two GPUs without a claim; nine are pending with a reason."
        ; needs [ExtendedResource],
    mig::pods_with_mig_devices_of_one_gpu_see_one_each
        => "Two pods with a MIG device of one GPU each see their own device and no other; the GPU is not given away as a whole.",
    mig::a_limit_of_a_mig_profile_is_served_without_a_claim_of_the_users
        => "nvidia.com/mig-1g.10gb: 1 as a limit gives the container one MIG device of that profile without a claim of the user's."
        ; needs [ExtendedResource],
    mig::a_layout_that_is_changed_under_the_plugin_appears_in_the_slice
        => "A MIG layout that is changed while the plugin runs appears in the slice; a GPU without instances and a pending mode are told.",
    dynamic_mig::gpus_are_cut_when_pods_need_it_and_whole_for_the_next
        => "With dynamic MIG 14 pods with a MIG device each run at once on two GPUs that are cut for them; when they are gone no instance is left, and 8 pods get whole GPUs. No slice is written meanwhile."
        ; with Parts
        ; needs [SharedCounters]
        ; long "56 pods on eight GPUs.",
    dynamic_mig::a_mig_device_that_somebody_holds_open_is_tainted_until_it_is_let_go
        => "While somebody holds the MIG device of a deleted pod open, exactly what overlaps it is tainted and other pods start on the same GPU; once it is let go it is destroyed, and pod and taints are gone."
        ; with Parts
        ; needs [SharedCounters],
    dynamic_mig::a_lost_gpu_of_which_somebody_has_a_part_leaves_its_place_and_the_others_go_on
        => "While somebody has a MIG device of a GPU that is lost, what could be made of that GPU is withdrawn by one write, of another one by two; the other GPUs go on serving, and all is offered again when both are back."
        ; with Parts
        ; needs [SharedCounters],
    dynamic_mig::gpus_whose_mode_needs_a_reset_are_cut_in_the_mode_that_they_are_in
        => "A100s whose MIG mode was switched on before are offered as MIG devices alone: 8 pods with a 1g.5gb each run at once, then one with a 7g.40gb; when they are gone no instance is left and the mode is as it was."
        ; with Parts
        ; needs [SharedCounters]
        ; long "56 pods with a 1g.5gb each on eight GPUs, then 8 with a 7g.40gb.",
    shares::twenty_pods_with_a_share_each_are_packed_on_as_few_gpus_as_can_hold_them
        => "Twenty pods with 20 GiB of GPU memory each share as few GPUs as can hold them, and each sees its GPU and what its share is."
        ; with Shares
        ; needs [ConsumableCapacity],
    shares::a_whole_gpu_waits_while_a_share_of_it_is_in_use_and_runs_after
        => "A pod with a whole GPU is pending with a reason while anybody has a share of that GPU, runs after, and nobody has a share meanwhile."
        ; with Shares
        ; needs [ConsumableCapacity],
    shares::two_shares_of_one_claim_are_told_apart_by_the_containers_that_have_them
        => "Of one claim with two shares of one GPU each container sees the GPU and is told of the share that it names, or of both if it names none."
        ; with Shares
        ; needs [ConsumableCapacity],
    shares::admin_access_sees_a_gpu_that_is_shared_and_hinders_nobody
        => "Admin access that asks for 1 MiB sees a GPU of which somebody has a share, and does not keep anybody from having all of it."
        ; with Shares
        ; needs [AdminAccess, ConsumableCapacity],
    shares::a_limit_of_gpus_has_them_for_itself_beside_shares
        => "Beside pods with shares, nvidia.com/gpu: 2 as a limit has two GPUs for itself, and none of those that are shared."
        ; with Shares
        ; needs [ExtendedResource, ConsumableCapacity],
    shares::a_share_that_must_be_held_is_refused_with_what_its_device_has
        => "A share that must be held to its memory is refused with what its device has for that, and one that need not be runs."
        ; with Shares
        ; needs [ConsumableCapacity],
    share_status::a_claim_says_what_holds_its_share_and_no_plugin_says_more_than_that
        => "The status of a claim says what holds its share to its memory; a plugin can neither say anything of another node's share, nor allocate or reserve a claim."
        ; with Shares
        ; needs [ConsumableCapacity],
    mixes::claims_of_every_kind_come_and_go_beside_each_other_and_leave_nothing
        => "In 15 rounds whole GPUs, MIG devices, shares, lists and admin access come and go by chance on eight GPUs: no two claims overlap, none waits for a minute for what is free, and at the end no instance, setting, file or claim is left."
        ; with Views
        ; needs [AdminAccess, PrioritizedList, SharedCounters, ConsumableCapacity]
        ; long "100 rounds.",
    time_slices::a_time_slice_is_set_while_somebody_wants_it_and_no_other_gpu_is_touched
        => "A time slice is set while somebody wants it: for two pods of one claim, for ten claims with shares of one GPU, and for nobody after the last of them. Another interval is refused with both names, and a claim that asks for none touches nothing."
        ; with Turns
        ; needs [ConsumableCapacity],
    rights::a_plugin_writes_slices_of_its_own_node_and_driver_only
        => "With the real token of its pod the plugin's account writes slices of its own node and drivers only; everything else is refused with the reason.",
    rights::a_plugin_reads_and_changes_nothing_that_is_not_its_own
        => "The plugin's account can read no secrets, pods or lists of claims and change no pod, node or claim; another account can write no slice.",
    cleanup::deleted_pods_leave_no_record_no_cdi_file_and_no_claim
        => "When pods are gone, their claims, journal records and CDI files are gone too.",
    cleanup::a_restarted_container_sees_its_gpu_again_and_leaves_nothing
        => "A container that is restarted keeps its GPU, and nothing is left when its pod is gone.",
    cleanup::a_pod_recreated_under_its_name_has_a_claim_of_its_own
        => "A pod that is deleted and made anew under its name has a claim of its own and leaves nothing of either.",
    plugin::the_plugin_is_ready_only_once_its_slices_are_published
        => "The plugin's pod is ready once its slices are published, and not before.",
    plugin::the_metrics_count_the_devices_that_are_prepared
        => "The metrics page counts the devices that are prepared at present.",
    configuration::a_configuration_that_asks_for_nothing_is_accepted
        => "A configuration that asks for nothing special is accepted, and the pod gets its GPU.",
    configuration::a_wrong_configuration_is_refused_when_it_is_applied
        => "A wrong configuration is refused when it is applied, with the path of the field, its value and what to write.",
    configuration::a_configuration_that_does_not_fit_the_device_is_refused_by_the_node
        => "A configuration for another type of device than the allocated one is refused by the node, with the reason in the pod's events.",
    webhook::the_webhook_refuses_a_wrong_configuration_when_it_is_applied
        => "The webhook alone, without the policy, refuses a wrong configuration with the path, the value and what to write.",
    domains::a_compute_domain_has_its_template_and_its_nodes_and_ends_when_nothing_uses_it
        => "A compute domain gets its template, and its pod the one node that fits, which is held by a taint; deleted in use it waits and says so, and when its pod is gone, domain, slots and taint are gone."
        ; needs [ResourceV1, ExtendedResource],
    survival::a_pod_on_the_gpus_of_a_force_deleted_pod_waits_and_does_not_fail
        => "A pod that gets the GPUs of a force-deleted pod waits until that pod has ended; no preparation fails.",
    survival::slices_come_back_and_pods_go_on_when_the_kubelet_restarts
        => "The slices that a starting kubelet deletes are put back, running containers are left alone, new pods run.",
    survival::what_the_kubelet_forgot_is_freed
        => "GPUs of a claim that the kubelet has forgotten (a lost checkpoint) are freed when the claim is gone.",
    driver::a_driver_that_is_installed_after_the_plugin_has_started_is_offered
        => "A plugin without a driver offers nothing and is not restarted; when the driver is installed its GPUs are offered and a waiting pod runs.",
    driver::a_driver_that_is_replaced_serves_the_next_pods_and_leaves_running_ones_alone
        => "A driver that is replaced while a pod runs leaves that pod alone; the next pods get the new version's files.",
    driver::the_gpus_of_a_driver_that_is_removed_are_withdrawn_with_the_reason_until_it_is_back
        => "The GPUs of a driver that is removed are withdrawn, with the reason in log and metric; pods go on and end, and the GPUs are offered again when it is back.",
    driver::a_lost_gpu_is_withdrawn_until_it_is_reset_and_the_others_go_on
        => "A GPU that falls off the bus is withdrawn until it has been reset; the other GPUs go on serving.",
    driver::a_call_of_the_driver_that_hangs_holds_up_no_pod_and_does_not_end_the_plugin
        => "While a call of the driver hangs pods are prepared, the plugin is not ready and not restarted, and it recovers when the call returns.",
    hostile::garbage_on_the_sockets_does_not_disturb_a_pod_that_starts
        => "Garbage and a crowd of connections on both sockets, which only root may open, do not disturb a pod that starts.",
    kubelet::slices_are_back_within_half_a_second_at_each_of_twenty_kubelet_restarts
        => "At each of 20 kubelet restarts the slices are missing for at most half a second; running containers are left alone.",
    kubelet::slices_stay_when_the_plugin_is_killed_and_when_its_pod_is_replaced
        => "Slices never vanish when the plugin is killed or its pod is replaced, not after the kubelet's 30 s either.",
    kubelet::slices_are_back_when_kubelet_and_plugin_restart_within_a_second
        => "When kubelet and plugin restart within a second, in either order, slices come back and pods run, every time."
        ; long "10 times in each order instead of 5.",
    api_away::a_pod_made_while_the_plugin_is_cut_off_runs_soon_after
        => "A pod that is made while the plugin is cut off from the API for 20 s runs within 15 s of the end of the cut.",
    api_away::connections_that_hang_for_good_hold_up_neither_pods_nor_slices
        => "When all open connections of the plugin to the API hang for good, pods run and deleted slices come back within 15 s."
        ; long "Slices that somebody deletes meanwhile, with no kubelet that says so, are back within 50 s.",
    api_away::pods_run_and_slices_stay_when_the_api_server_is_killed
        => "When the API server is killed, 3 times, slices stay as they are, and pods made as soon as it takes them run.",
    api_away::nothing_is_lost_and_nothing_is_written_while_the_api_server_is_stopped
        => "While the API server is stopped for 30 s and after it, no pod is disturbed, no claim or slice changes, nothing is written."
        ; long "It is stopped for 5 minutes.",
    odd_claims::claims_that_are_gone_replaced_or_shared_with_other_drivers_are_told_apart
        => "Prepare refuses a claim that is deleted, replaced or of other drivers only, with the reason; of a joint one it prepares ours.",
    reboot::pods_of_a_node_that_reboots_run_again_with_their_gpus
        => "Pods of a node that reboots run again with the GPUs that they had, nothing else is left, and the slices are back.",
    events::a_refused_claim_says_why_on_the_pod_and_on_the_claim
        => "A pod whose claim is refused shows the reason in kubectl describe, and so does its claim.",
    events::a_long_wait_is_told_and_a_normal_start_is_not
        => "A pod that waits for a force-deleted pod has an event that names that pod's claim; a pod that starts at once has none.",
    upgrade::no_preparation_fails_while_the_plugin_is_updated
        => "While 50 pods come and go, rolling updates replace the plugin again and again: every pod runs, no preparation fails, the slices stay.",
    upgrade::pods_start_while_the_plugin_is_killed_every_two_seconds
        => "While 50 pods come and go, the plugin's process is killed every two seconds: at least 40 pods run, the slices stay, and in the end nothing is left and all GPUs can be had.",
    upgrade::the_death_of_the_plugins_first_process_disturbs_nobody
        => "When the first process of the plugin's container is killed, running pods and slices stay as they are, and new pods run.",
    damage::a_gpu_in_use_whose_record_is_damaged_is_given_to_nobody_until_its_pod_has_ended
        => "A GPU in use whose record is damaged, in each of seven ways, is given to nobody until its pod has ended, and the others are.",
    damage::full_read_only_and_vanished_directories_fail_a_claim_with_the_reason_and_leave_nothing
        => "Full tmpfs, read-only CDI directory, vanished state and plugin directories: an error with path and remedy, nothing leaked, the next try works.",
    takeover::the_claims_of_the_reference_driver_are_taken_over_with_their_running_pods
        => "On a node with a checkpoint and CDI specs of the reference driver, pods with whole GPUs and MIG devices run on and can share their claims; a GPU in use is given to nobody before its pod has ended.",
    takeover::a_release_of_the_reference_chart_becomes_ours_by_helm_upgrade_and_its_pods_go_on
        => "A release of the reference chart, with a value for every key of it, becomes one of ours by helm upgrade: pods run on, their claims are ours, and nothing of them is left.",
    versions::pods_get_their_gpus_whichever_version_of_the_resource_api_the_plugin_speaks
        => "The plugin speaks v1beta1 and v1beta2 of the resource API as it speaks v1: it offers its GPUs, and a pod gets the GPU of its claim.",
    uninstall::helm_uninstall_leaves_no_slice_class_file_or_socket
        => "After helm uninstall no slice, no device class, no file and no socket of the driver is left.",
    racks::pods_of_a_domain_share_a_clique_whatever_else_uses_the_racks
        => "On four nodes in two racks the pods of a domain share an NVLink clique in each of 20 arrangements of other load, with no affinity in any manifest."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    racks::two_domains_in_one_clique_have_a_channel_each_and_a_number_waits_for_all_nodes
        => "Two domains in one clique have a channel each, and each pod sees its own and no other; the number of a domain that is gone is given to nobody while a container may have it."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    racks::of_two_gangs_that_do_not_both_fit_one_runs_whole_and_the_other_is_told_what_fits
        => "Of two gangs that do not both fit one runs whole; the other holds nothing, is told what is missing and the largest size that fits, and runs when the first is gone."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    policies::a_domain_goes_over_two_racks_if_its_policy_says_so_and_as_the_plugin_said_before
        => "A domain of two whole nodes that no rack has room for waits without a policy, by what kubectl tessera plan says; with the policy Preferred the plugin names a node of each rack, and there its pods run."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    policies::a_domain_of_higher_priority_replaces_one_whole_if_its_policy_says_so
        => "A domain of two whole nodes gets those of one of lower priority when its policy preempts, and not before: the other's pods are evicted, and events on both name the other."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    guide::the_guides_pod_has_the_channel_of_its_domain
        => "The AWS guide's ComputeDomain with a pod, byte by byte: the pod runs and has the channel of its domain and no other."
        ; on Racks ; needs [ResourceV1],
    guide::the_guides_job_runs_to_its_end_in_one_clique
        => "The AWS guide's ComputeDomain with an MPIJob, with a launcher and nothing else added, runs to its end: two workers in one clique with four GPUs each by limits, one channel, ranks in the order of the hostfile."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::a_restarted_plugin_changes_nothing_of_a_domain_in_use
        => "While a domain is in use every pod of the plugin is replaced: its pods and its conditions stay as they were, and one more pod of it gets its channel."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::an_upgraded_chart_changes_nothing_of_a_domain_in_use
        => "While a domain is in use the chart is upgraded and every pod of it replaced: the domain's pods and its conditions stay as they were, and one more pod of it gets its channel."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::a_killed_controller_is_replaced_and_goes_on_where_it_was
        => "A controller that is killed while it places a domain goes on when it is back: the domain's pods run, and another domain in use is left alone."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::another_leader_goes_on_where_the_first_was
        => "Of two controllers the one that leads is deleted while a domain comes: the other leads and places it, and another domain in use is left alone."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::a_node_that_leaves_its_clique_is_told_and_pods_go_on
        => "A node that leaves the NVLink clique of its domain is named in the domain's conditions; the pods go on, and the domain is ready when the node is back."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::a_deleted_namespace_takes_its_domains_along
        => "A namespace with a domain in use is deleted: it is gone with the domain within 40 s, and no slot and no taint is left."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    domain_events::a_gang_that_loses_a_node_is_told_and_gets_others_when_its_pods_are_gone
        => "A node that leaves the cluster is named in the domain's conditions; when the domain's pods are made again they run on other nodes, and the node is used again when it is back."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    sessions::where_the_hosts_run_nvidia_imex_a_pod_waits_until_that_of_its_node_is_ready
        => "Where the hosts run nvidia-imex, a pod waits until that of its node says that it is ready, and is told what is missing of it; then it has the channel of its domain."
        ; on Racks ; with HostImex ; needs [ResourceV1],
    sessions::where_each_domain_has_its_session_the_guides_pod_runs_and_another_waits_for_the_node
        => "Where each domain has an NVLink session of its own, the AWS guide's pod runs, and the pods of its session are found by its UID; another domain for the same node waits, is told whose it is, and runs when the first is gone."
        ; on Racks ; with OwnSessions ; needs [ResourceV1],
    domain_events::an_uninstalled_chart_lets_domains_go
        => "A chart that is uninstalled while there is a domain leaves no slot and no taint, and the domain can be deleted."
        ; on Racks ; needs [ResourceV1, ExtendedResource],
    old_kubelet::a_node_with_an_older_kubelet_serves_pods_under_a_newer_control_plane
        => "A node with a kubelet of 1.33 under a control plane of 1.36: its pods get their GPUs, alone and shared, and keep them while kubelet and plugin are restarted; its slices come back."
        ; on OldKubelet,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use tessera_cluster::paths::checkout;

    use super::*;

    /// Every function in the groups that has the signature of a scenario.
    fn written() -> BTreeSet<String> {
        let groups = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/groups");
        let mut names = BTreeSet::new();
        for file in fs::read_dir(groups).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            names.extend(scenarios_in(&text));
        }
        names
    }

    /// Those of one file.
    fn scenarios_in(text: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for function in text.split("pub(crate) fn ").skip(1) {
            let (name, rest) = function.split_once('(').unwrap();
            if rest.trim_start().starts_with("context: &Context") {
                names.insert(name.to_owned());
            }
        }
        names
    }

    fn joined(needs: &[Need]) -> String {
        let needs: Vec<_> = needs.iter().map(ToString::to_string).collect();
        needs.join("; ")
    }

    #[test]
    fn every_scenario_that_is_written_is_in_the_list_and_the_other_way_round() {
        let listed: BTreeSet<_> = SCENARIOS.iter().map(|s| s.name.to_owned()).collect();
        assert_eq!(listed, written());
        assert_eq!(listed.len(), SCENARIOS.len(), "one is in the list twice");
    }

    #[test]
    fn the_documentation_has_every_scenario_with_its_guarantee_and_no_other() {
        let text = fs::read_to_string(checkout().join("docs/scenarios.md")).unwrap();
        let documented: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).collect();
        let rows = SCENARIOS
            .iter()
            .map(|s| format!("| `{}` | {} |", s.name, s.guarantee));
        let long = SCENARIOS.iter().filter_map(|s| Some((s.name, s.long?)));
        let long_rows = long.map(|(name, long)| format!("| `{name}` | {long} |"));
        let not_everywhere = SCENARIOS.iter().filter(|s| !s.needs.is_empty());
        let needs = not_everywhere.map(|s| format!("| `{}` | {} |", s.name, joined(s.needs)));
        let only_long = SCENARIOS
            .iter()
            .filter_map(|s| Some((s.name, s.ground.only_long()?)));
        let only_rows = only_long.map(|(name, why)| format!("| `{name}` | {why} |"));
        let wanted: Vec<_> = rows
            .chain(long_rows)
            .chain(only_rows)
            .chain(needs)
            .collect();
        assert!(
            documented == wanted,
            "the tables of docs/scenarios.md must be\n{}",
            wanted.join("\n")
        );
    }

    #[test]
    fn those_of_an_installation_stand_together_because_a_change_of_it_takes_ten_seconds() {
        let mut others: Vec<_> = SCENARIOS.iter().map(|s| s.installation).collect();
        others.dedup();
        others.retain(|installation| *installation != Installation::Usual);
        assert_eq!(
            others,
            [
                Installation::Parts,
                Installation::Shares,
                Installation::Views,
                Installation::Turns,
                Installation::HostImex,
                Installation::OwnSessions,
            ]
        );
    }

    #[test]
    fn those_of_a_cluster_stand_together_and_the_one_that_uninstalls_the_product_is_the_last() {
        assert!(SCENARIOS.is_sorted_by_key(|scenario| scenario.ground));
        for ground in [Ground::Mixed, Ground::Racks] {
            let last = SCENARIOS.iter().rfind(|s| s.ground == ground).unwrap();
            assert!(last.name.contains("uninstall"), "{}", last.name);
        }
    }

    #[test]
    fn every_event_in_the_table_of_domains_is_proved_by_a_scenario_or_a_test_of_a_named_crate() {
        let text = fs::read_to_string(checkout().join("docs/domains.md")).unwrap();
        let (_, table) = text.split_once("| event | conditions |").unwrap();
        let rows = table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let mut proved = BTreeSet::new();
        for row in rows {
            let last = row.trim_end_matches('|').rsplit('|').next().unwrap();
            let mut names = last.split('`').skip(1).step_by(2);
            let name = names.next().unwrap();
            let listed = SCENARIOS.iter().any(|scenario| scenario.name == name);
            assert!(listed || names.next().is_some(), "{name} is no scenario");
            proved.insert(name.to_owned());
        }
        let group = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/groups/domain_events.rs");
        for name in scenarios_in(&fs::read_to_string(group).unwrap()) {
            assert!(proved.contains(&name), "{name} is no row of the table");
        }
    }
}
