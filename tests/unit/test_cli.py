"""The command line: fixed names and JSON shapes, help with an example, errors of one line with the fix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from joserfc import jwk

from gateway import local, smart_server
from gateway.cli import COMMANDS, main
from gateway.config import load
from gateway.smart.record import Caller


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


ALL = dict(commands())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `gateway` in a folder of its own, without settings from outside."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, text: str = "", code: int = 0, **variables: str):
        done = CliRunner(env=variables).invoke(main, arguments, input=text)
        assert done.exit_code == code, (done.output, done.stderr, done.exception)
        return done

    return run


def test_the_names_are_those_that_people_script():
    """None of them may go away."""
    assert {" ".join(path) for path in ALL} >= {
        "demo", "serve", "worker", "doctor", "config", "audit", "ehr check", "client register", "client token", "client list", "client show",
        "client disable", "client enable", "client approve", "client rotate-secret", "client delete", "client invite", "client invites",
        "client withdraw", "grant list", "grant end", "keys list", "keys rotate",
        "user add", "user list", "user password", "user reset-factors", "user disable", "launch create", "inbox list", "inbox show",
        "inbox retry", "inbox drop", "store upgrade",
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(run, path):
    """The example names the command itself."""
    text = run(*path, "--help").output
    assert "Example" in text
    assert f"gateway {' '.join(path)}" in text or f"gateway {path[0]}" in text


@pytest.mark.parametrize("path", [path for path in ALL if path[0] not in ("serve", "worker", "demo")], ids=" ".join)
def test_every_answer_can_be_json(path):
    """Programs read it."""
    assert any("--json" in option.opts for option in ALL[path].params)


@pytest.mark.parametrize("path", [path for path in ALL if path[0] not in ("ehr", "demo")], ids=" ".join)
def test_state_is_named_alike_everywhere(path):
    """`--config`, `--store` and `--ehr` mean the same for each command."""
    options = {name for option in ALL[path].params for name in option.opts}
    assert options >= {"--config", "--store", "--ehr"}


def test_help_lists_every_command_without_importing_it(run):
    """`gateway --help` is quick and complete."""
    text = run("--help").output
    assert all(name in text for name in COMMANDS)


def test_a_wrong_setting_is_one_line_with_the_fix(run, tmp_path):
    """Exit code 2, the line of the file, and no stack trace."""
    (tmp_path / "gateway.toml").write_text('listen = "here"\n')
    done = run("config", code=2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gateway: gateway.toml:1: listen: 'here' is not HOST:PORT. Fix: write it like 127.0.0.1:8080")


def test_serving_needs_an_ehr(run):
    """The sentence says how to name one."""
    assert "--ehr NAME=URL" in run("serve", code=2).stderr


def test_config_says_where_each_value_comes_from(run):
    """A flag, a variable, a default."""
    found = {one["name"]: one for one in json.loads(run("config", "--json", "--ehr", "hapi=http://127.0.0.1:1/fhir", GATEWAY_WRITES="scopes").output)}
    assert (found["writes"]["value"], found["writes"]["source"]) == ("scopes", "GATEWAY_WRITES")
    assert found["ehr.hapi.url"]["source"] == "--ehr"
    assert found["listen"]["source"] == "default"


APP = {
    "client_id": "growth",
    "client_secret": "keep-this-secret",
    "redirect_uris": ["https://app.example/callback"],
    "launch_uri": "https://app.example/launch?tenant=1",
    "token_endpoint_auth_method": "client_secret_basic",
}


def test_client_register_prints_the_answer_of_rfc_7591(run):
    """An id and a secret in the file are kept; without them they are made. A list gives a list."""
    one = json.loads(run("client", "register", "--from", "-", "--json", text=json.dumps(APP)).output)
    assert one["client_id"] == "growth"
    assert one["client_secret"] == "keep-this-secret"
    assert one["redirect_uris"] == APP["redirect_uris"]
    made = {key: value for key, value in APP.items() if key not in ("client_id", "client_secret")}
    several = json.loads(run("client", "register", "--from", "-", "--json", text=json.dumps([made, made])).output)
    assert len({client["client_id"] for client in several}) == 2
    assert all(len(client["client_secret"]) >= 32 for client in several)


def test_clients_are_listed_disabled_and_enabled(run):
    """Each change is on record; registering again enables nobody; what is not there, or is so already, is said with the fix."""
    run("client", "register", "--from", "-", text=json.dumps(APP))
    run("client", "disable", "growth")
    run("client", "register", "--from", "-", text=json.dumps(APP))
    (listed,) = json.loads(run("client", "list", "--json").output)
    assert (listed["client_id"], listed["ehrs"], bool(listed["disabled_at"])) == ("growth", ["*"], True)
    assert "disabled already" in run("client", "disable", "growth", code=2).stderr
    assert json.loads(run("client", "enable", "growth", "--json").output) == {"client_id": "growth", "disabled": False}
    assert "is not disabled" in run("client", "enable", "growth", code=2).stderr
    assert "does not wait" in run("client", "approve", "growth", code=2).stderr
    shown = json.loads(run("client", "show", "growth", "--json").output)
    assert shown["redirect_uris"] == APP["redirect_uris"]
    assert shown["disabled_at"] is None
    assert json.loads(run("client", "disable", "growth", "--json").output) == {"client_id": "growth", "disabled": True, "grants_ended": 0}
    assert "keep-this-secret" not in run("client", "show", "growth").output + run("client", "list").output
    for verb in ("show", "disable", "enable"):
        assert "gateway client list" in run("client", verb, "nobody", code=2).stderr
    found = [(one["action"], one["client_id"]) for one in json.loads(run("audit", "--json").output)]
    wanted = ["client-disable", "client-enable", "client-register", "client-disable", "client-register"]
    assert found == [(action, "growth") for action in wanted]


def test_what_ends_is_said_and_asked(run):
    """One grant by its id, or somebody's or some client's; with nobody to ask it wants --yes."""
    run("client", "register", "--from", "-", text=json.dumps(APP))
    assert json.loads(run("grant", "list", "--json").output) == []
    assert "Say what ends" in run("grant", "end", code=2).stderr
    assert "Say what ends" in run("grant", "end", "5f0c", "--user", "ann", code=2).stderr
    assert "gateway grant list" in run("grant", "end", "5f0c", code=2).stderr
    assert "gateway user list" in run("grant", "list", "--user", "ann", code=2).stderr
    assert "--yes" in run("grant", "end", "--client", "growth", code=2).stderr
    told = json.loads(run("grant", "end", "--client", "growth", "--yes", "--json").output)
    assert told == {"ended": 0, "user": "", "client_id": "growth"}


def test_lists_can_be_of_one_ehr(run):
    """`--ehr NAME`."""
    senders = [APP | {"client_id": "here", "ehrs": ["hapi"]}, APP | {"client_id": "there", "ehrs": ["other"]}, APP]
    run("client", "register", "--from", "-", text=json.dumps(senders))
    assert [one["client_id"] for one in json.loads(run("client", "list", "--ehr", "hapi", "--json").output)] == ["growth", "here"]
    for name, ehr in (("ann", "hapi"), ("bob", "other")):
        run("user", "add", name, "--ehr", ehr, "--fhir-user", "Patient/p1", "--patient", "p2", "--password-stdin", text="correct horse\n")
    run("user", "disable", "bob")
    told = json.loads(run("user", "list", "--json").output)
    assert [(one["name"], one["ehr"], one["patients"], bool(one["disabled_at"])) for one in told] == [
        ("ann", "hapi", ["p2"], False),
        ("bob", "other", ["p2"], True),
    ]
    assert "correct horse" not in run("user", "list").output
    assert [one["name"] for one in json.loads(run("user", "list", "--ehr", "hapi", "--json").output)] == ["ann"]


def test_a_secret_is_rotated_and_a_client_deleted(run):
    """The secret is printed once and never on record; deleting asks, and without somebody to ask wants --yes."""
    run("client", "register", "--from", "-", text=json.dumps(APP))
    secret = run("client", "rotate-secret", "growth").stdout.strip()
    told = json.loads(run("client", "rotate-secret", "growth", "--overlap", "24", "--json").output)
    assert (told["client_id"], told["overlap_hours"], len(told["client_secret"]), len(secret)) == ("growth", 24, 43, 43)
    assert "--yes" in run("client", "delete", "growth", code=2).stderr
    assert json.loads(run("client", "delete", "growth", "--yes", "--json").output) == {"client_id": "growth", "deleted": True, "grants_ended": 0}
    assert json.loads(run("client", "list", "--json").output) == []
    assert "gateway client list" in run("client", "delete", "growth", "--yes", code=2).stderr
    record = run("audit", "--json").output
    assert [one["action"] for one in json.loads(record)] == ["client-delete", "client-secret", "client-secret", "client-register"]
    assert secret not in record
    assert told["client_secret"] not in record


def test_what_registered_itself_is_approved(run, tmp_path):
    """The list says that it waits and since when, show says who registered it, and afterwards it is in use."""
    settings = load(environ={"GATEWAY_REGISTRATION": "open"}, flags={"ehr": ("hapi=http://127.0.0.1:9/fhir",)}, cwd=tmp_path).settings

    async def register() -> str:
        async with local.opened(settings) as state:
            own = smart_server.own_registrations(state.ground, smart_server.terms(settings, types=(), service=""))
            return (await own.register("hapi", {"redirect_uris": ["https://app.example/cb"]}, [], Caller())).body["client_id"]

    id_ = asyncio.run(register())
    assert "waits since" in run("client", "list").output
    shown = json.loads(run("client", "show", id_, "--json").output)
    assert (shown["registered_by"], bool(shown["pending_since"]), shown["ehrs"]) == ("itself", True, ["hapi"])
    version = shown["version"]
    assert version in run("client", "list").output
    for wrong in ((), ("--version", "00000000"), ("--json",)):
        told = run("client", "approve", id_, *wrong, code=2).stderr
        assert "https://app.example/cb" in told
        assert f"gateway client approve {id_} --version {version}" in told
    assert json.loads(run("client", "approve", id_, "--version", version, "--json").output) == {"client_id": id_, "pending": False}
    assert "version" not in json.loads(run("client", "show", id_, "--json").output)
    assert "in use" in run("client", "list").output
    assert "does not wait" in run("client", "approve", id_, code=2).stderr
    assert [one["action"] for one in json.loads(run("audit", "--json").output)] == ["client-approve", "client-register"]


def test_an_invite_is_made_listed_and_withdrawn(run):
    """Its token is printed once; what it has no effect on is said."""
    made = run("client", "invite", "--ehr", "hapi", "--uses", "2", "--days", "3", "--system-scope", "system/Observation.rs")
    assert len(made.stdout.strip()) == 43
    assert "registration = closed" in made.stderr
    (listed,) = json.loads(run("client", "invites", "--json").output)
    assert (listed["ehr"], listed["uses_left"], listed["system_scope"]) == ("hapi", 2, "system/Observation.rs")
    assert made.stdout.strip() not in run("client", "invites", "--json").output + run("audit", "--json").output
    run("client", "withdraw", listed["id"])
    assert json.loads(run("client", "invites", "--json").output) == []
    assert "gateway client invites" in run("client", "withdraw", listed["id"], code=2).stderr
    assert "system scopes" in run("client", "invite", "--ehr", "hapi", "--system-scope", "patient/*.rs", code=2).stderr


def test_signing_keys_are_listed_and_rotated(run):
    """The first is made at the first look; a second rotation waits, unless a key was stolen."""
    (first,) = json.loads(run("keys", "list", "--json").output)
    assert first["state"] == "signing"
    second = json.loads(run("keys", "rotate", "--json").output)
    assert (second["state"], second["until"]) == ("waiting", None)
    assert [one["kid"] for one in json.loads(run("keys", "list", "--json").output)] == [second["kid"], first["kid"]]
    assert "--at-once" in run("keys", "rotate", code=2).stderr
    third = json.loads(run("keys", "rotate", "--at-once", "--json").output)
    assert [(one["kid"], one["state"]) for one in json.loads(run("keys", "list", "--json").output)] == [(third["kid"], "signing")]


def test_a_bad_registration_names_the_client_and_the_rule(run):
    """One line; which client of the list; what is wrong."""
    done = run("client", "register", "--from", "-", text=json.dumps([APP, {"redirect_uris": ["http://app.example/cb"]}]), code=2)
    assert "client 2" in done.stderr
    assert "invalid_redirect_uri" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "no JSON" in run("client", "register", "--from", "-", text="{", code=2).stderr


def test_a_sender_that_would_deliver_into_itself_is_refused(run):
    """It would write back what it just told us."""
    sender = {
        "client_id": "lab",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [jwk.ECKey.generate_key("P-384", {"kid": "1"}).as_dict(private=False)]},
        "scope": "system/Observation.cu",
        "push": {"mode": "deliver", "ehr": "hapi", "source_ehr": "hapi"},
    }
    assert "deliver into itself" in run("client", "register", "--from", "-", "--ehr", "hapi", text=json.dumps(sender), code=2).stderr


def test_launch_create_prints_iss_launch_and_url(run):
    """The shape is fixed: {iss, launch, url}; the URL is the registered one with both parameters."""
    run("client", "register", "--from", "-", text=json.dumps(APP))
    found = json.loads(run("launch", "create", "--ehr", "hapi", "--client", "growth", "--patient", "p1", "--json").output)
    assert set(found) == {"iss", "launch", "url"}
    assert found["iss"] == "http://127.0.0.1:8080/fhir/hapi"
    assert found["url"].startswith("https://app.example/launch?tenant=1&iss=http%3A%2F%2F127.0.0.1%3A8080%2Ffhir%2Fhapi&launch=")
    assert "register" in run("launch", "create", "--ehr", "hapi", "--client", "nobody", "--patient", "p1", code=2).stderr
    known = ("launch", "create", "--ehr", "hapi", "--client", "growth", "--patient", "p1", "--intent", "compare", "--tenant", "north", "--json")
    item = '{"reference": "ImagingStudy/1"}'
    assert set(json.loads(run(*known, "--fhir-context", item, "--fhir-context", f"[{item}]").output)) == {"iss", "launch", "url"}
    assert "not JSON" in run(*known, "--fhir-context", "{", code=2).stderr
    assert "--fhir-context" in run(*known, "--fhir-context", '{"reference": "Patient/p2"}', code=2).stderr
    assert "--style-url" in run(*known, "--style-url", "http://ehr.example/style.json", code=2).stderr


def test_user_add_reads_the_password_from_stdin(run):
    """It never stands on the command line; a name that is taken is refused."""
    arguments = ("user", "add", "alice", "--ehr", "hapi", "--fhir-user", "Patient/p1", "--patient", "p2=Her son", "--password-stdin")
    found = json.loads(run(*arguments, "--json", text="correct horse\n").output)
    assert found["name"] == "alice"
    assert found["fhir_user"] == "Patient/p1"
    assert "taken" in run(*arguments, text="correct horse\n", code=2).stderr
    assert "8 to 1024" in run("user", "add", "bob", "--ehr", "hapi", "--fhir-user", "Patient/p1", "--password-stdin", text="x\n", code=2).stderr
    assert "--password-stdin" in run("user", "add", "eve", "--ehr", "hapi", "--fhir-user", "Patient/p1", code=2).stderr


def test_a_user_gets_a_new_password_and_an_end(run):
    """Both on record; nobody of that name is one line with the fix."""
    run("user", "add", "alice", "--ehr", "hapi", "--fhir-user", "Patient/p1", "--password-stdin", text="correct horse\n")
    assert "alice" in run("user", "password", "alice", "--password-stdin", text="battery staple\n").output
    assert "8 to 1024" in run("user", "password", "alice", "--password-stdin", text="x\n", code=2).stderr
    assert "alice" in run("user", "disable", "alice").output
    assert "nobody" in run("user", "disable", "bob", code=2).stderr
    found = json.loads(run("audit", "--json", "--since", "1h").output)
    assert [one["action"] for one in found] == ["account-disable", "password-set", "account-add"]


def test_a_user_who_lost_her_phone_is_let_in_again(run):
    """App, recovery codes and passkeys go, on record; nobody of another name."""
    run("user", "add", "alice", "--ehr", "hapi", "--fhir-user", "Patient/p1", "--password-stdin", text="correct horse\n")
    told = run("user", "reset-factors", "alice").output
    assert "alice signs in with the password alone" in told
    assert "nobody" in run("user", "reset-factors", "bob", code=2).stderr
    found = json.loads(run("audit", "--json").output)
    assert [(one["action"], one["detail"]) for one in found] == [("factor-remove", "all"), ("account-add", "")]


def test_an_ehr_has_to_be_named_where_there_are_several(run, tmp_path):
    """And one that is not configured is refused, with those that are."""
    (tmp_path / "gateway.toml").write_text('[ehr.a]\nurl = "http://127.0.0.1:1/fhir"\n[ehr.b]\nurl = "http://127.0.0.1:2/fhir"\n')
    arguments = ("user", "add", "alice", "--fhir-user", "Patient/p1", "--password-stdin")
    assert "a, b" in run(*arguments, text="correct horse\n", code=2).stderr
    assert "choose one of: a, b" in run(*arguments, "--ehr", "c", text="correct horse\n", code=2).stderr


def test_what_was_done_is_on_record(run):
    """`gateway audit` shows the state changes that the command line made, newest first."""
    run("client", "register", "--from", "-", text=json.dumps(APP))
    run("user", "add", "alice", "--ehr", "hapi", "--fhir-user", "Patient/p1", "--password-stdin", text="correct horse\n")
    run("launch", "create", "--ehr", "hapi", "--client", "growth", "--patient", "p1")
    found = json.loads(run("audit", "--json", "--since", "1h").output)
    assert [one["action"] for one in found] == ["launch", "account-add", "client-register"]
    assert json.loads(run("audit", "--json", "--patient", "p1", "--action", "launch").output)[0]["client_id"] == "growth"
    assert "no moment" in run("audit", "--since", "yesterday", code=2).stderr


def test_an_empty_inbox_is_an_empty_list(run):
    """And a message that is not there is one line."""
    assert json.loads(run("inbox", "list", "--json").output) == []
    for command in (("show",), ("retry",), ("drop", "--yes")):
        assert "gateway: ID: " in run("inbox", command[0], "abc", *command[1:], code=2).stderr
    assert "--yes" in run("inbox", "drop", "abc", code=2).stderr


def test_store_upgrade_makes_an_empty_store(run):
    """It says what was there before."""
    assert json.loads(run("store", "upgrade", "--json").output) == {"before": "empty", "now": "current"}
    assert json.loads(run("store", "upgrade", "--json").output)["before"] == "current"


def test_doctor_fails_for_an_ehr_that_is_not_there(run):
    """One line each; exit code 1; the fix."""
    done = run("doctor", "--json", "--ehr", "hapi=http://127.0.0.1:9/fhir", code=1)
    found = {one["part"]: one for one in json.loads(done.output)}
    assert found["ehr hapi"]["state"] == "failed"
    assert "check the address" in found["ehr hapi"]["fix"]
    assert found["store"]["state"] == "ok"
    assert "does not answer" in run("ehr", "check", "http://127.0.0.1:9/fhir", code=2).stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [("no key", "holds no private"), ('{"kty": "oct", "k": "AAAA"}', "holds no private"), (None, "does not say the key's id")],
    ids=["text", "shared", "pem-without-kid"],
)
def test_a_key_that_cannot_sign_is_one_line(run, tmp_path, content, says):
    """What is wrong with the file and what to do; nothing of what is in it."""
    file = tmp_path / "key"
    file.write_text(content or jwk.ECKey.generate_key("P-384").as_pem(private=True).decode())
    done = run("client", "token", "--client", "lab", "--key", str(file), "--scope", "system/*.rs", "--ehr", "hapi=http://127.0.0.1:9/fhir", code=2)
    assert says in done.stderr
    assert "--kid" in done.stderr
    assert done.stderr.count("\n") == 1
