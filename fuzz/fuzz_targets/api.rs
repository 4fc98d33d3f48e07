//! Bodies of the API: a service to offer, and what is inside. Whatever is accepted there becomes a service that either
//! the core refuses or a peer understands, and that the API can show again in the words in which it was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::command::ServiceView;
use remote_network_core::id::PublicKey;
use remote_network_core::port::{Dataset, Executable, Image, Program, Target};
use remote_network_core::service::{Service, Visibility};
use remote_network_fuzz::api::dto::{NewServiceDto, ServiceDto, Topic, VisibilityDto};
use remote_network_fuzz::keys::keypair;
use serde_json::Value;

fn visibility(dto: &VisibilityDto) -> Option<Visibility> {
    Some(match dto {
        VisibilityDto::Everyone => Visibility::Everyone,
        VisibilityDto::OnlyMe => Visibility::OnlyMe,
        VisibilityDto::Listed(keys) => {
            Visibility::Listed(keys.iter().map(|k| k.parse::<PublicKey>().ok()).collect::<Option<_>>()?)
        }
    })
}

fn service(body: NewServiceDto) -> Option<()> {
    let program = match (&body.module, &body.image, &body.program) {
        (None, None, None) => Program::Data(Dataset { manifest: body.data.as_ref()?.parse().ok()?, len: 1 }),
        _ if body.data.is_some() => return None,
        (Some(module), None, None) => Program::Wasm(module.parse().ok()?),
        (None, None, Some(object)) => {
            let target = Target { arch: "x86_64".to_owned(), os: "linux".to_owned() };
            Program::Native(Box::new(Executable { object: object.parse().ok()?, target }))
        }
        (None, Some(name), None) => {
            let (entrypoint, workdir) = (body.entrypoint.clone(), body.workdir.clone());
            Program::Image(Box::new(Image { name: name.clone(), id: [7; 32], entrypoint, workdir }))
        }
        _ => return None,
    };
    let visibility = visibility(&body.visibility)?;
    let service = body.into_service(program.clone(), 1, visibility);
    let owner = keypair(0).public();
    let view = ServiceView { owner, local: true, service: service.clone() };
    let shown = serde_json::to_value(ServiceDto::from(&view)).expect("shown");
    // What is shown is what was given: the same fields make the same service.
    let mut body = serde_json::Map::new();
    for key in ["name", "description", "version", "stdin", "mounts", "limits", "visibility", "details"] {
        body.insert(key.to_owned(), shown.get(key).expect("shown in full").clone());
    }
    body.extend(shown.get("module").map(|module| ("module".to_owned(), module.clone())));
    if let Some(Value::Object(image)) = shown.get("image") {
        for (key, value) in image.iter().filter(|(key, _)| *key != "id") {
            let key = if key == "name" { "image" } else { key };
            body.insert(key.to_owned(), value.clone());
        }
    }
    let digest = shown.get("program").and_then(|program| program.get("digest"));
    body.extend(digest.map(|digest| ("program".to_owned(), digest.clone())));
    let digest = shown.get("data").and_then(|data| data.get("digest"));
    body.extend(digest.map(|digest| ("data".to_owned(), digest.clone())));
    let again: NewServiceDto = serde_json::from_value(Value::Object(body)).expect("its own words");
    let again_visibility = self::visibility(&again.visibility).expect("its own keys");
    assert_eq!(again.into_service(program, 1, again_visibility), service);
    if let Ok(told) = Service::from_dict(&service.to_dict()) {
        assert_eq!(told.id(), service.id());
        assert_eq!(told.determinism(), service.determinism());
        let everyone = Visibility::Everyone;
        assert_eq!(told, Service { visibility: everyone, details: told.details.clone(), ..service });
    }
    Some(())
}

fuzz_target!(|text: &[u8]| {
    if let Ok(body) = serde_json::from_slice::<NewServiceDto>(text) {
        service(body);
    }
    if let Ok(topic) = serde_json::from_slice::<Topic>(text) {
        let written = serde_json::to_string(&topic).expect("written");
        assert_eq!(serde_json::from_str::<Topic>(&written).ok(), Some(topic));
    }
});
