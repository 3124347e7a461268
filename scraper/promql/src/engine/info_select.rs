//! Before anything is selected: which info series can belong to the series that `info` is given. Prometheus evaluates its
//! argument first and then selects by what came out; here the index is asked which values the identifying labels of the
//! argument's series have, so that all selects still go out at once.

use std::collections::BTreeSet;

use narthex_model::{MatchType, Matcher};
use narthex_storage::{LabelQuery, Meter, Queryable};

use super::EngineError;
use super::info::IDENTIFYING;
use super::plan::{Kind, Node, Plan};
use crate::ast::AggregateOp;

/// With more values than this a label narrows nothing down.
const MOST: usize = 1000;

/// Adds matchers for the identifying labels to the selects of `info`.
pub(super) async fn narrow(queryable: &dyn Queryable, plan: &mut Plan, meter: &Meter) -> Result<(), EngineError> {
    let mut found: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut open = vec![&plan.root];
    while let Some(node) = open.pop() {
        if let Kind::Call(call) = &node.kind
            && let (Some(info), Some(base)) = (&call.info, call.args.first())
            && let Some(selects) = sources(base)
        {
            found.push((info.id, selects));
        }
        node.each_child(|child| open.push(child));
    }
    for (info, selects) in found {
        if plan.selects.get(info).is_none_or(|s| s.unused) {
            continue;
        }
        for name in IDENTIFYING {
            let mut values = BTreeSet::new();
            for select in selects.iter().filter_map(|id| plan.selects.get(*id)) {
                let query = LabelQuery {
                    selectors: vec![select.matchers.clone()],
                    mint: select.mint,
                    maxt: select.maxt,
                    meter: meter.clone(),
                    ..LabelQuery::default()
                };
                let answer = queryable.label_values(name, query).await.map_err(EngineError::expanding)?;
                values.extend(answer.values);
            }
            // Series without the label need none of the info series.
            if values.is_empty() || values.len() > MOST {
                continue;
            }
            let any = values.iter().map(|v| regex::escape(v)).collect::<Vec<_>>().join("|");
            if let (Ok(matcher), Some(select)) =
                (Matcher::new(MatchType::Regexp, name, any.as_str()), plan.selects.get_mut(info))
            {
                select.matchers.push(matcher);
            }
        }
    }
    Ok(())
}

/// The selects whose series an expression's series have their labels from, if from nowhere else.
fn sources(node: &Node) -> Option<Vec<usize>> {
    let (mut out, mut open) = (Vec::new(), vec![node]);
    while let Some(node) = open.pop() {
        match &node.kind {
            Kind::Selector(s) => out.push(s.id),
            Kind::Range(r) => out.push(r.selector.id),
            Kind::Call(c)
                if matches!(c.name, "label_replace" | "label_join" | "info" | "absent" | "absent_over_time") =>
            {
                return None;
            }
            Kind::Aggregate(a) if a.op == AggregateOp::CountValues => return None,
            _ => {}
        }
        node.each_child(|child| open.push(child));
    }
    Some(out)
}
