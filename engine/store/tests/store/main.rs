//! The store from the outside, on real files and on a disk that fails on command.

#[cfg(test)]
mod compaction;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod data_dir;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod listing;
#[cfg(test)]
mod puts;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod reshard_crash;
mod revoked_versions;
#[cfg(test)]
mod support;
#[cfg(test)]
mod version;
