//! Groups and classes: on what terms VMs share the machine.
//!
//! A VM carries the number of its class; what the class says is looked up here whenever it is needed, so a parked VM
//! holds two bytes of it.

use alloc::vec::Vec;
use virtual_isa::gate::{ClassTerms, GateError, ProcessorTerms};
use virtual_isa::limits::{MAX_CLASSES, MAX_GROUPS};

/// Group of the supervisor.
pub const SUPERVISOR_GROUP: u32 = 0;

/// What a group is on that nobody has said anything of.
pub const DEFAULT_GROUP_TERMS: ProcessorTerms = ProcessorTerms { shares: 100, reservation_ppm: 0, limit_ppm: 0 };

/// The terms of class 0.
const DEFAULT_CLASS: ClassTerms = ClassTerms::DEFAULT;

/// A class and how many VMs it has.
#[derive(Clone, Copy, Debug)]
struct Class {
    terms: ClassTerms,
    nr_vms: u32,
}

/// All classes, by number.
#[derive(Debug)]
pub struct Classes {
    defined: Vec<Option<Class>>,
}

impl Classes {
    /// Class 0 alone.
    pub fn new() -> Self {
        Self { defined: Vec::from([Some(Class { terms: DEFAULT_CLASS, nr_vms: 0 })]) }
    }

    /// The terms of a class; those of class 0 for one that is not there.
    pub fn terms(&self, class: u16) -> &ClassTerms {
        match self.defined.get(usize::from(class)) {
            Some(Some(class)) => &class.terms,
            _ => &DEFAULT_CLASS,
        }
    }

    /// The number of a class that is there.
    pub fn find(&self, class: u32) -> Option<u16> {
        let number = u16::try_from(class).ok()?;
        self.defined.get(usize::from(number))?.as_ref().map(|_| number)
    }

    /// Defines a class, or changes it while no VM has it.
    ///
    /// # Errors
    /// `BadArgument` for numbers out of range or terms that cannot be, `BadState` for a class that VMs have, or
    /// `NoMemory`.
    pub fn define(&mut self, class: u32, terms: ClassTerms) -> Result<(), GateError> {
        let is_group = terms.group < MAX_GROUPS && terms.group != SUPERVISOR_GROUP;
        if class == 0 || class >= MAX_CLASSES || !is_group || !terms.is_possible() {
            return Err(GateError::BadArgument);
        }
        let at = class as usize;
        if at >= self.defined.len() {
            let more = at.saturating_sub(self.defined.len()).saturating_add(1);
            self.defined.try_reserve(more).map_err(|_| GateError::NoMemory)?;
            self.defined.resize(at.saturating_add(1), None);
        }
        let place = self.defined.get_mut(at).ok_or(GateError::BadArgument)?;
        if place.is_some_and(|class| class.nr_vms > 0) {
            return Err(GateError::BadState);
        }
        *place = Some(Class { terms, nr_vms: 0 });
        Ok(())
    }

    /// A VM of a class has come.
    pub fn join(&mut self, class: u16) {
        if let Some(Some(class)) = self.defined.get_mut(usize::from(class)) {
            class.nr_vms = class.nr_vms.saturating_add(1);
        }
    }

    /// A VM of a class is no more.
    pub fn leave(&mut self, class: u16) {
        if let Some(Some(class)) = self.defined.get_mut(usize::from(class)) {
            class.nr_vms = class.nr_vms.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_defined_used_and_changed_when_unused() {
        let mut classes = Classes::new();
        let terms = ClassTerms { frames_per_s: 5, ..DEFAULT_CLASS };
        assert_eq!(classes.find(7), None);
        assert_eq!(classes.define(7, terms), Ok(()));
        let number = classes.find(7).unwrap();
        assert_eq!(classes.terms(number), &terms);
        classes.join(number);
        assert_eq!(classes.define(7, DEFAULT_CLASS), Err(GateError::BadState));
        classes.leave(number);
        assert_eq!(classes.define(7, DEFAULT_CLASS), Ok(()));
        assert_eq!(classes.terms(number), &DEFAULT_CLASS);
        assert_eq!(classes.find(6), None);
    }

    #[test]
    fn impossible_terms_are_refused() {
        let mut classes = Classes::new();
        let bad = |classes: &mut Classes, class, terms| classes.define(class, terms) == Err(GateError::BadArgument);
        assert!(bad(&mut classes, 0, DEFAULT_CLASS));
        assert!(bad(&mut classes, MAX_CLASSES, DEFAULT_CLASS));
        assert!(bad(&mut classes, 1, ClassTerms { group: SUPERVISOR_GROUP, ..DEFAULT_CLASS }));
        assert!(bad(&mut classes, 1, ClassTerms { group: MAX_GROUPS, ..DEFAULT_CLASS }));
        assert!(bad(&mut classes, 1, ClassTerms { reservation_ppm: 2, limit_ppm: 1, ..DEFAULT_CLASS }));
        assert_eq!(classes.define(1, ClassTerms { reservation_ppm: 2, ..DEFAULT_CLASS }), Ok(()));
    }
}
