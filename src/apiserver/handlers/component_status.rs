//! Whether the parts of the control plane are well.

use super::{Call, render};
use crate::cache::Listing;
use crate::response::Outcome;
use naru_api::codec;
use naru_api::core::component_status::{COMPONENT_STATUSES, components};
use naru_api::meta;
use naru_api::status::Status;

/// GET of one part, or of all.
pub(super) fn get(call: &Call) -> Outcome {
    let (resource, name) = (&COMPONENT_STATUSES, call.info.name.as_str());
    if name.is_empty() {
        return render::list(call, resource, &Listing::made_up(&call.state.store, resource, &components()));
    }
    let component = components().into_iter().find(|component| meta::name(component) == name);
    let component = component.ok_or_else(|| Box::new(Status::not_found("", resource.plural, name)))?;
    render::object(call, resource, 200, codec::canonical(&component).into())
}
