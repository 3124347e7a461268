//! What is watched, what changes, and following an API server that misbehaves.

use narthex_config::{KubernetesAttachMetadata, WebUrl};
use narthex_runtime::metrics::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn read(kind: Kind, value: &Value) -> Object {
    answers::event_object(kind, json!({"type": "ADDED", "object": value}).to_string().as_bytes()).unwrap()
}

fn objects() -> Vec<(Kind, Value)> {
    let of_web = json!({"kubernetes.io/service-name": "web"});
    vec![
        (
            Kind::Pod,
            json!({"metadata": {"name": "web-0", "namespace": "ns"}, "status": {"podIP": "10.0.0.7"},
                "spec": {"containers": [{"name": "main", "ports": [
                    {"containerPort": 8080}, {"containerPort": 8081}, {"containerPort": 9000}]}]}}),
        ),
        (
            Kind::Service,
            json!({"metadata": {"name": "web", "namespace": "ns"},
                "spec": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}}),
        ),
        (
            Kind::EndpointSlice,
            json!({"metadata": {"name": "web-x", "namespace": "ns", "labels": of_web}, "addressType": "IPv4",
                "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.0.0.7"],
                    "targetRef": {"kind": "Pod", "namespace": "ns", "name": "web-0"}}]}),
        ),
        (
            Kind::EndpointSlice,
            json!({"metadata": {"name": "web-6", "namespace": "ns", "labels": of_web}, "addressType": "IPv6",
                "ports": null, "endpoints": null}),
        ),
    ]
}

#[test]
fn a_group_is_made_anew_when_what_it_asked_for_changes() {
    let metrics = SdMetrics::register(&Registry::default());
    let feed = |kind| Feed { kind, namespace: None, label: String::new(), field: String::new() };
    let feeds = vec![feed(Kind::EndpointSlice), feed(Kind::Service), feed(Kind::Pod)];
    let mut state = Groups::new(KubernetesRole::EndpointSlice, feeds, KubernetesAttachMetadata::default());
    let mut waiting = HashSet::new();
    let of = |kind: Kind| {
        let objects = objects();
        objects.iter().filter(|(k, _)| *k == kind).map(|(k, v)| read(*k, v)).collect::<Vec<_>>()
    };
    let mut take = |state: &mut Groups, event: Event| {
        state.take(event, &mut waiting, &metrics);
        let mut changed: Vec<String> =
            state.changed().iter().map(|g| format!("{} {}", g.source, g.targets.len())).collect();
        changed.sort();
        changed
    };
    assert_eq!(
        take(&mut state, Event::Reset(0, of(Kind::EndpointSlice))),
        ["endpointslice/ns/web-6 0", "endpointslice/ns/web-x 1"]
    );
    assert_eq!(take(&mut state, Event::Reset(2, of(Kind::Pod))), ["endpointslice/ns/web-x 3"]);
    assert_eq!(take(&mut state, Event::Reset(2, of(Kind::Pod))), [""; 0], "nothing changed");
    assert_eq!(take(&mut state, Event::Reset(1, of(Kind::Service))).len(), 2);
    let pod = of(Kind::Pod).remove(0);
    assert_eq!(take(&mut state, Event::Delete(2, pod.clone())), ["endpointslice/ns/web-x 1"]);
    assert_eq!(take(&mut state, Event::Apply(2, pod.clone())), ["endpointslice/ns/web-x 3"]);
    assert_eq!(take(&mut state, Event::Apply(2, pod)), [""; 0]);
    let slices = of(Kind::EndpointSlice);
    assert_eq!(take(&mut state, Event::Reset(0, slices[..1].to_vec())), ["endpointslice/ns/web-6 0"]);
    assert_eq!(take(&mut state, Event::Reset(0, vec![])), ["endpointslice/ns/web-x 0"]);
    assert!(state.asked_by.is_empty() && state.sent.is_empty(), "nothing stays behind");
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An API server that gives each request the next answer; the last one is not answered at all.
async fn api_server(answers: Vec<String>) -> (String, Arc<parking_lot::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/base", listener.local_addr().unwrap());
    let requests: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
    let (seen, answers) = (requests.clone(), Arc::new(answers));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (seen, answers) = (seen.clone(), answers.clone());
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(b) => head.push(b),
                            Err(_) => return,
                        }
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let n = {
                        let mut seen = seen.lock();
                        seen.push(text.split(' ').nth(1).unwrap_or_default().to_owned());
                        seen.len() - 1
                    };
                    let Some(answer) = answers.get(n) else { std::future::pending().await };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (base, requests)
}

#[tokio::test]
async fn pages_watches_and_lost_places() {
    let service = |name: &str, version: &str| {
        json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version},
            "spec": {"ports": [{"port": 1}]}})
    };
    let list = |items: Value, version: &str, next: &str| {
        answer(
            "200 OK",
            &json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}).to_string(),
        )
    };
    let event = |kind: &str, object: Value| format!("{}\n", json!({"type": kind, "object": object}));
    let first_watch = event("ADDED", service("c", "11"))
        + &event("DELETED", service("a", "12"))
        + &event("BOOKMARK", json!({"metadata": {"resourceVersion": "20"}}));
    let (base, requests) = api_server(vec![
        answer("500 Internal Server Error", "{\"message\": \"not yet\"}"),
        list(json!([service("a", "1")]), "10", "more"),
        list(json!([service("b", "2")]), "10", ""),
        answer("200 OK", &first_watch),
        answer("200 OK", &event("ERROR", json!({"kind": "Status", "code": 410, "message": "too old"}))),
        list(json!([service("b", "2"), service("d", "30")]), "30", ""),
    ])
    .await;
    let config = KubernetesSdConfig {
        role: Some(KubernetesRole::Service),
        api_server: Some(WebUrl::parse(&base).unwrap()),
        ..KubernetesSdConfig::default()
    };
    let metrics = SdMetrics::register(&Registry::default());
    let discovery = Box::new(KubernetesDiscovery::new(&config, metrics).unwrap());
    let (updates, mut received) = mpsc::channel(16);
    let task = tokio::spawn(discovery.run(updates));
    let mut there: BTreeSet<String> = BTreeSet::new();
    let expected = ["svc/ns/b", "svc/ns/d"];
    while there.iter().map(String::as_str).collect::<Vec<_>>() != expected {
        let groups = tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap();
        for group in groups {
            if group.targets.is_empty() {
                there.remove(&group.source)
            } else {
                there.insert(group.source)
            };
        }
    }
    task.abort();
    let requests = requests.lock().clone();
    assert!(requests[2].contains("limit=500&continue=more"), "{requests:?}");
    assert!(requests[3].starts_with("/base/api/v1/services?watch=true"), "{requests:?}");
    assert!(requests[3].contains("resourceVersion=10&"), "{requests:?}");
    assert!(requests[4].contains("resourceVersion=20&"), "after the bookmark: {requests:?}");
    assert!(!requests[5].contains("watch"), "listed anew: {requests:?}");
}

#[test]
fn what_is_watched() {
    let mut config = KubernetesSdConfig { role: Some(KubernetesRole::Endpoints), ..KubernetesSdConfig::default() };
    config.namespaces.names = vec!["b".into(), "a".into(), "b".into()];
    config.attach_metadata = KubernetesAttachMetadata { node: true, cronjob: true, ..Default::default() };
    let feeds = feeds(&config, KubernetesRole::Endpoints, None);
    let text: Vec<String> =
        feeds.iter().map(|f| format!("{:?}/{}", f.kind, f.namespace.as_deref().unwrap_or("*"))).collect();
    assert_eq!(
        text,
        ["Node/*", "Endpoints/a", "Endpoints/b", "Service/a", "Service/b", "Pod/a", "Pod/b", "Job/a", "Job/b"]
    );
}
