//! The limits of the ResourceSlice API that an offer must keep.
//!
//! They stand in `pkg/apis/resource/types.go` of Kubernetes and are enforced by its
//! `validation.go`: a slice beyond one of them is refused as a whole, with all its devices.

/// Devices in one slice (`ResourceSliceMaxDevices`).
pub const DEVICES_PER_SLICE: usize = 128;

/// Devices in one slice as soon as one of them has taints, consumes counters or carries a list
/// attribute (`ResourceSliceMaxDevicesWithTaintsOrConsumesCounters`).
pub const ELABORATE_DEVICES_PER_SLICE: usize = 64;

/// Counter sets in one slice (`ResourceSliceMaxCounterSets`). A slice has either these or devices.
pub const COUNTER_SETS_PER_SLICE: usize = 8;

/// Counters in one set, and in one device's use of a set (`ResourceSliceMaxCountersPerCounterSet`).
pub const COUNTERS_PER_SET: usize = 32;

/// Counters that all devices of one slice use together
/// (`ResourceSliceMaxDeviceCounterConsumptionsPerSlice`).
pub const USED_COUNTERS_PER_SLICE: usize = 2048;

/// Attributes and capacities of one device, counted together
/// (`ResourceSliceMaxAttributesAndCapacitiesPerDevice`).
pub const ATTRIBUTES_AND_CAPACITIES_PER_DEVICE: usize = 32;

/// Bytes in a string or version attribute (`DeviceAttributeMaxValueLength`).
pub const ATTRIBUTE_VALUE_BYTES: usize = 64;

/// Bytes in the name of an attribute or capacity, its domain aside (`DeviceMaxIDLength`).
pub const ATTRIBUTE_NAME_BYTES: usize = 32;

/// Bytes in an object's name: a DNS subdomain (RFC 1123).
pub const OBJECT_NAME_BYTES: usize = 253;
