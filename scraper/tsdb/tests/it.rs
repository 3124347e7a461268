//! The store from outside: against the plain store in memory, across restarts, and killed at random instants.

#[path = "it/admin.rs"]
mod admin;
#[path = "it/backfill.rs"]
mod backfill;
#[path = "it/churn.rs"]
mod churn;
#[path = "it/damage.rs"]
mod damage;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/hints.rs"]
mod hints;
#[path = "it/kill.rs"]
mod kill;
#[path = "it/model.rs"]
mod model;
