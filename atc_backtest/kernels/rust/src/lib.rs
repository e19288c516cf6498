//! The ATC state machine in vector lanes. The algorithm is `advance` and below; it knows nothing of
//! Python. With the feature `python`, this file is its door there.

pub mod advance;
pub mod arch;
pub mod follow;
pub mod stream;

mod averages;
mod equities;
mod families;
mod group;
mod lanes;
mod signs;
mod sums;
mod vector;

#[cfg(feature = "python")]
mod python;
