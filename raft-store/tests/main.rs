//! What the registry promises, on the real store and on a model of one.

#[cfg(test)]
mod apply;
#[cfg(test)]
mod authorized;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod corruption;
#[cfg(test)]
#[cfg(feature = "faults")]
mod crash;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod high_water;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod support;
