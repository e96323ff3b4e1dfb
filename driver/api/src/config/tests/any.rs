//! Configurations, JSON and texts at random.

use proptest::prelude::*;

use super::*;

fn limits() -> impl Strategy<Value = Bytes> {
    (1..1_u64 << 40).prop_map(Bytes::from_mib)
}

fn mps() -> impl Strategy<Value = MpsConfig> {
    let device = prop_oneof![
        any::<u32>().prop_map(LimitedDevice::Index),
        "(GPU|MIG)-[0-9a-f-]{1,36}".prop_map(LimitedDevice::Uuid),
    ];
    (
        prop::option::of(0..=100_u8),
        prop::option::of(limits()),
        prop::collection::btree_map(device, limits(), 0..3),
        any::<bool>(),
    )
        .prop_map(|(percent, memory, per_device, multi_user)| MpsConfig {
            active_thread_percentage: percent,
            pinned_memory: memory,
            per_device,
            multi_user,
        })
}

fn memory(swappable: bool) -> impl Strategy<Value = MemoryConfig> {
    let limit = prop_oneof![
        limits().prop_map(MemoryLimit::Amount),
        (1..=100_u8).prop_map(MemoryLimit::Percent),
    ];
    let tiers = [MinimumTier::Native, MinimumTier::Mps, MinimumTier::Shim];
    let enforcement = prop_oneof![
        Just(Enforcement::BestEffort),
        prop::sample::select(tiers.to_vec()).prop_map(Enforcement::Required),
    ];
    let mut pressure = vec![Pressure::OutOfMemory, Pressure::Trim, Pressure::Evict];
    pressure.extend(swappable.then_some(Pressure::Swap));
    let pressure = prop::sample::select(pressure);
    (prop::option::of(limit), enforcement, pressure).prop_map(
        |(limit, enforcement, on_pressure)| MemoryConfig {
            limit,
            enforcement,
            on_pressure,
        },
    )
}

fn compute() -> impl Strategy<Value = ComputeConfig> {
    let modes = [None, Some(ComputeMode::TimeSlicing), Some(ComputeMode::Mps)];
    let unweighted = prop::sample::select(modes.to_vec()).prop_map(|mode| (mode, None));
    let windows = Some(ComputeMode::TimeWindows);
    let weighted = prop::option::of(1..=1000_u16).prop_map(move |weight| (windows, weight));
    prop_oneof![unweighted, weighted].prop_map(|(mode, weight)| ComputeConfig { mode, weight })
}

fn swap() -> impl Strategy<Value = SwapConfig> {
    let seconds = || prop::option::of(1..=86_400_u32);
    let willingness = prop::sample::select(vec![Willingness::Allow, Willingness::Prefer]);
    let times = (seconds(), seconds(), seconds());
    let limit = prop::option::of(limits());
    (willingness, times, limit, any::<bool>()).prop_map(
        |(willingness, (idle, residency, wake), host_limit, assume_unshared)| SwapConfig {
            willingness,
            idle_seconds: idle,
            min_residency_seconds: residency,
            max_wake_seconds: wake,
            host_limit,
            assume_unshared,
        },
    )
}

fn share() -> impl Strategy<Value = ShareConfig> {
    prop::option::of(swap()).prop_flat_map(|swap| {
        (memory(swap.is_some()), compute()).prop_map(move |(memory, compute)| ShareConfig {
            memory,
            compute,
            swap,
        })
    })
}

fn configs() -> impl Strategy<Value = Config> {
    let interval = prop::sample::select(vec![
        Interval::Default,
        Interval::Short,
        Interval::Medium,
        Interval::Long,
    ]);
    let gpu = prop_oneof![
        interval.prop_map(GpuSharing::TimeSlicing),
        mps().prop_map(GpuSharing::Mps),
    ];
    let mig = prop_oneof![
        Just(MigSharing::TimeSlicing),
        mps().prop_map(MigSharing::Mps),
    ];
    let gpu = prop::option::of(gpu).prop_map(|sharing| Config::Gpu(GpuConfig { sharing }));
    let mig =
        prop::option::of(mig).prop_map(|sharing| Config::MigDevice(MigDeviceConfig { sharing }));
    let backends = [IommuBackend::LegacyOnly, IommuBackend::PreferIommuFd];
    let vfio = (prop::sample::select(backends.to_vec()), any::<bool>());
    let vfio = vfio.prop_map(|(backend, enable_api_device)| {
        Config::VfioDevice(VfioDeviceConfig {
            backend,
            enable_api_device,
        })
    });
    let modes = [AllocationMode::Single, AllocationMode::All];
    let channel = ("\\PC{1,40}", prop::sample::select(modes.to_vec()));
    let channel = channel.prop_map(|(domain_id, allocation_mode)| {
        Config::ComputeDomainChannel(ComputeDomainChannelConfig {
            domain_id,
            allocation_mode,
        })
    });
    let daemon = "\\PC{1,40}"
        .prop_map(|domain_id| Config::ComputeDomainDaemon(ComputeDomainDaemonConfig { domain_id }));
    let share = share().prop_map(Config::Share);
    prop_oneof![gpu, mig, vfio, channel, daemon, share]
}

/// JSON in which the names that mean something are likely, in places where they may not belong.
fn json_values() -> impl Strategy<Value = Value> {
    let names = "apiVersion|kind|sharing|strategy|timeSlicingConfig|mpsConfig|interval|multiUser|\
                 default(ActiveThreadPercentage|P(erDevicePinnedMemory|innedDeviceMemory)Limit)|\
                 iommu|backendPolicy|enableAPIDevice|domainID|allocationMode|memory|limit|enforcement|\
                 minimumTier|onPressure|compute|mode|weight|swap|policy|idleSeconds|hostLimit|[0-9]|\\PC*";
    let texts = "resource.nvidia.com/v1beta1|GpuConfig|MigDeviceConfig|VfioDeviceConfig|MPS|\
                 TimeSlicing|TimeWindows|Required|BestEffort|Native|Swap|Evict|Never|Allow|\
                 [0-9]{1,3}%|[0-9.]{0,40}[A-Za-z]{0,2}|\\PC*";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names, inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_configuration_reads_back_as_it_was_written(config in configs()) {
        let encoded = config.encode();
        prop_assert_eq!(decode(config.kind().driver(), &encoded), Ok(config.clone()));
        let text = encoded.to_string();
        prop_assert_eq!(Config::decode_text(config.kind().driver(), &at(), &text), Ok(config));
    }

    #[test]
    fn no_json_panics_the_decoder_and_every_mistake_has_its_place(
        fields in json_values(),
        kind in prop::sample::select(Kind::ALL.to_vec()),
    ) {
        let mut value = fields;
        if let Value::Object(fields) = &mut value {
            fields.insert("apiVersion".to_owned(), kind.api_version().into());
            fields.insert("kind".to_owned(), kind.as_str().into());
        }
        if let Err(error) = decode(kind.driver(), &value) {
            prop_assert!(error.to_string().starts_with(BASE), "{}", error);
        }
    }

    #[test]
    fn no_text_panics_the_decoder(text: String) {
        prop_assert!(Config::decode_text(Driver::Gpu, &at(), &text).is_err());
    }
}
