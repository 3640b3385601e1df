"""Settings: what is taken, from where, and what a wrong one is told."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gateway import local, smart_server
from gateway.config import EhrSettings, Loaded, Settings, SignInSettings, load
from gateway.errors import ConfigError

EHR = '[ehr.hapi]\nurl = "http://127.0.0.1:8090/fhir"\n'


def read(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> Loaded:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return load(config=path, environ=environ or {}, flags=flags, cwd=tmp_path)


def refused(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ, **flags)
    return caught.value


def test_defaults_are_safe_for_one_machine(tmp_path):
    """Without any setting the gateway listens on loopback, seals, narrows writes and keeps its state in one folder."""
    settings = load(environ={}, cwd=tmp_path).settings
    assert settings.listen == "127.0.0.1:8080"
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.seal
    assert settings.writes == "table"
    assert settings.store == f"sqlite+aiosqlite:///{tmp_path}/gateway-data/gateway.db"


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path):
    """The nearer the source is to the person who types, the more it counts."""
    text = 'listen = "127.0.0.1:1"\npublic_url = "https://a.example"\ncoherence = 2\n' + EHR
    loaded = read(tmp_path, text, {"GATEWAY_LISTEN": "127.0.0.1:2", "GATEWAY_PUBLIC_URL": "https://b.example"}, listen="127.0.0.1:3")
    assert loaded.settings.listen == "127.0.0.1:3"
    assert loaded.settings.public_url == "https://b.example"
    assert loaded.settings.coherence == 2
    sources = {one.name: one.source for one in loaded.listed()}
    assert sources["listen"] == "--listen"
    assert sources["public_url"] == "GATEWAY_PUBLIC_URL"
    assert sources["coherence"] == "gateway.toml:3"
    assert sources["ehr.hapi.url"] == "gateway.toml:5"
    assert sources["writes"] == "default"


def test_the_file_in_the_working_folder_is_found(tmp_path):
    """gateway.toml beside the caller counts without --config; GATEWAY_CONFIG names another."""
    (tmp_path / "gateway.toml").write_text('listen = "127.0.0.1:5"\n')
    (tmp_path / "other.toml").write_text('listen = "127.0.0.1:6"\n')
    assert load(environ={}, cwd=tmp_path).settings.port == 5
    assert load(environ={"GATEWAY_CONFIG": "other.toml"}, cwd=tmp_path).settings.port == 6


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ('lissten = "127.0.0.1:1"\n', "gateway.toml:1", "did you mean listen?"),
        ("\nworkers = 0\n", "gateway.toml:2", "write a number from 1 to 64"),
        ('writes = "scope"\n', "gateway.toml:1", 'write "scopes"'),
        ('public_url = "https://a.example/portal"\n', "gateway.toml:1", "a host name of its own"),
        ('redis = "localhost:6379"\n', "gateway.toml:1", "redis://"),
        ('store = "sqlite:///:memory:"\n', "gateway.toml:1", "name a file"),
        ('store = "mysql://x/y"\n', "gateway.toml:1", "postgresql://"),
        ("listen = 8080\n", "gateway.toml:1", "put it in quotes"),
        ('listen = "8080"\n', "gateway.toml:1", "127.0.0.1:8080"),
        ('key = "abc"\n', "gateway.toml:1", "GATEWAY_KEY"),
        ('url = "http://127.0.0.1/fhir"\n', "gateway.toml:1", "[ehr.NAME]"),
        ('[ehr.a]\nplatform = "hapi"\n', "gateway.toml:2", "url"),
        ('[ehr.A]\nurl = "http://127.0.0.1/fhir"\n', "gateway.toml:1", "lower-case"),
        ('[ehr.a]\nurl = "http://u:p@127.0.0.1/fhir"\n', "gateway.toml:2", "password_file"),
        ('[ehr.a]\nurl = "http://127.0.0.1/fhir"\npassword = "x"\n', "gateway.toml:3", "GATEWAY_EHR_A_PASSWORD"),
        ('[ehr.a]\nurl = "http://127.0.0.1/fhir"\nauth = "bearer"\n', "ehr.a", "GATEWAY_EHR_A_BEARER"),
        ('[ehr.a]\nurl = "http://127.0.0.1/fhir"\nauth = "mtls"\n', "gateway.toml:2", "client_cert"),
        ('[ehr.a]\nurl = "http://127.0.0.1/fhir"\nplatfrom = "hapi"\n', "gateway.toml:3", "platform"),
        ('[ehr.a]\nurl = "http://127.0.0.1/fhir"\nlives = { observation = 3 }\n', "gateway.toml:3", "Observation"),
        ('trusted_proxies = ["10.0.0.1/8"]\n', "gateway.toml:1", "10.0.0.0/8"),
        ("workers = 2\n", "gateway.toml:1", "redis"),
        ('listen = "127.0.0.1:1\n', "gateway.toml:1", 'name = "value"'),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line_and_the_fix(tmp_path, text, where, fix):
    """Nobody has to guess which line is meant, nor what to write."""
    error = refused(tmp_path, text)
    assert error.where == where
    assert fix in error.fix


def test_a_wrong_variable_is_named(tmp_path):
    """Variables are checked like lines of the file, and a misspelt one is no silence."""
    assert refused(tmp_path, environ={"GATEWAY_LISTEM": "127.0.0.1:1"}).fix == "did you mean GATEWAY_LISTEN?"
    assert refused(tmp_path, environ={"GATEWAY_SEAL": "maybe"}).where == "GATEWAY_SEAL"
    assert refused(tmp_path, ehr=["hapi"]).where == "--ehr"


def test_variables_of_container_platforms_are_not_ours(tmp_path):
    """A Kubernetes service called gateway puts GATEWAY_PORT and others into every container."""
    environ = {"GATEWAY_PORT": "tcp://10.0.0.1:80", "GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1"}
    assert read(tmp_path, environ=environ).settings == read(tmp_path).settings


def test_an_ehr_may_come_from_a_flag_or_from_variables(tmp_path):
    """`--ehr NAME=URL` adds one or changes its URL; GATEWAY_EHR_NAME_SETTING sets anything of it."""
    environ = {"GATEWAY_EHR_ST_MARYS_URL": "https://ehr.example/r4/", "GATEWAY_EHR_ST_MARYS_AUTH": "bearer", "GATEWAY_EHR_ST_MARYS_BEARER": "s3cret"}
    settings = read(tmp_path, EHR, environ, ehr=["hapi=http://127.0.0.1:9/fhir"]).settings
    assert settings.ehr("hapi").url == "http://127.0.0.1:9/fhir"
    assert settings.ehr("st-marys").url == "https://ehr.example/r4"
    assert settings.ehr("st-marys").secret() == "s3cret"


@pytest.mark.parametrize(("auth", "kind"), [("basic", "password"), ("bearer", "bearer")])
def test_a_missing_secret_names_both_ways_to_give_it(tmp_path, auth: str, kind: str):
    """By the setting's own names."""
    wrong = refused(tmp_path, f'[ehr.a]\nurl = "https://ehr.example/fhir"\nauth = "{auth}"\nusername = "gateway"\n')
    assert wrong.fix == f"set {kind}_file or GATEWAY_EHR_A_{kind.upper()}"


def test_a_secret_is_read_from_its_file_and_never_shown(tmp_path):
    """The value is nowhere in the list nor in the settings' own text."""
    (tmp_path / "pw").write_text("s3cret\n")
    text = '[ehr.a]\nurl = "https://ehr.example/fhir"\nauth = "basic"\nusername = "gateway"\npassword_file = "pw"\n'
    loaded = read(tmp_path, text, {"GATEWAY_KEY": base64.b64encode(b"k" * 32).decode()}, store="postgresql://u:hidden@db/gw")
    assert loaded.settings.ehr("a").secret() == "s3cret"
    assert loaded.settings.key == (b"k" * 32,)
    shown = "\n".join(f"{one.name} {one.value}" for one in loaded.listed())
    assert "s3cret" not in shown + repr(loaded.settings)
    assert "hidden" not in shown
    assert "postgresql+asyncpg://u:***@db/gw" in shown
    assert "key (set)" in shown


def test_what_an_ehr_takes_and_is_called_may_be_told(tmp_path):
    """In the file as values, by variable as text; untold is none of yes and no."""
    told = 'aliases = ["https://ehr.example/r4/", "https://ehr.example"]\nclient_ids = false\n'
    (from_file,) = read(tmp_path, EHR + told).settings.ehrs
    assert (from_file.aliases, from_file.client_ids) == (("https://ehr.example/r4", "https://ehr.example"), False)
    assert from_file.transactions is None
    environ = {"GATEWAY_EHR_HAPI_ALIASES": "https://a.example/fhir, https://b.example", "GATEWAY_EHR_HAPI_TRANSACTIONS": "no"}
    loaded = read(tmp_path, EHR, environ)
    (by_variable,) = loaded.settings.ehrs
    assert (by_variable.aliases, by_variable.transactions) == (("https://a.example/fhir", "https://b.example"), False)
    shown = {one.name: one.value for one in loaded.listed()}
    assert (shown["ehr.hapi.aliases"], shown["ehr.hapi.transactions"], shown["ehr.hapi.client_ids"]) == (
        "https://a.example/fhir, https://b.example",
        "false",
        "",
    )
    assert refused(tmp_path, EHR + 'aliases = ["ehr.example"]\n').where == "gateway.toml:3"
    assert refused(tmp_path, EHR + "aliases = 3\n").fix == 'write it like ["https://ehr.example/r4"]'


def test_a_secret_does_not_travel_in_the_clear(tmp_path):
    """A password over http is refused, but on this machine itself."""
    environ = {"GATEWAY_EHR_A_BEARER": "x"}
    error = refused(tmp_path, '[ehr.a]\nurl = "http://ehr.example/fhir"\nauth = "bearer"\n', environ)
    assert "https" in error.fix


BACKEND = '[ehr.a]\nurl = "https://ehr.example/fhir"\nauth = "smart-backend"\nclient_id = "gateway"\nkey_file = "key.json"\nscope = "system/*.rs"\n'

APP = '[ehr.a]\nurl = "https://ehr.example/fhir"\nauth = "smart"\nclient_id = "gateway"\nscope = "openid fhirUser patient/*.rs"\n'


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        (BACKEND.replace('client_id = "gateway"\n', ""), "gateway.toml:2", "set client_id under [ehr.a]"),
        (BACKEND.replace('key_file = "key.json"\nscope = "system/*.rs"\n', ""), "gateway.toml:2", "set key_file and scope under"),
        (BACKEND.replace("key.json", "nowhere.json"), "gateway.toml:5", "name one that exists"),
        (BACKEND.replace("https", "http"), "gateway.toml:2", "use its https URL"),
        (BACKEND + 'token_endpoint = "http://ehr.example/token"\n', "gateway.toml:2", "use its https URL"),
        (BACKEND + 'token_endpoint = "http://127.0.0.1:9/token"\n', "gateway.toml:2", "token_loopback = true"),
        (BACKEND + 'token_endpoint = "http://ehr.example/token"\ntoken_loopback = true\n', "gateway.toml:2", "use its https URL"),
        (BACKEND + 'token_endpoint = "https://ehr.example/token#x"\n', "gateway.toml:7", "https://ehr.example/oauth2/token"),
        (BACKEND + 'token_endpoint = "ehr.example/token"\n', "gateway.toml:7", "https://host"),
        (BACKEND.replace("smart-backend", "bearer"), "ehr.a", "GATEWAY_EHR_A_BEARER"),
        (BACKEND.replace("smart-backend", "none"), "gateway.toml:2", 'set auth = "smart-backend" as well'),
        (BACKEND.replace("smart-backend", "smarts"), "gateway.toml:3", "smart"),
        (BACKEND.replace("smart-backend", "smart"), "gateway.toml:2", "add openid and fhirUser"),
        (APP + 'token_endpoint = "https://ehr.example/token"\n', "gateway.toml:2", 'set auth = "smart-backend" as well'),
        (APP.replace("https", "http"), "gateway.toml:2", "use its https URL"),
        (APP + 'key_file = "key.json"\nclient_secret_file = "key.json"\n', "gateway.toml:2", "leave one out"),
        (APP + 'client_secret = "x"\n', "gateway.toml:6", "GATEWAY_EHR_A_CLIENT_SECRET"),
        (BACKEND + 'client_secret_file = "key.json"\n', "gateway.toml:2", 'set auth = "smart" as well'),
    ],
)
def test_a_smart_client_is_set_whole_or_refused(tmp_path, text, where, fix):
    """What is missing, what would go in the clear, and what has no effect."""
    (tmp_path / "key.json").write_text("{}")
    error = refused(tmp_path, text)
    assert error.where == where
    assert fix in error.fix


def test_a_smart_client_with_all_that_it_needs(tmp_path):
    """A token endpoint is kept letter by letter, its last slash and query too."""
    (tmp_path / "key.json").write_text("{}")
    (found,) = read(tmp_path, BACKEND + 'token_endpoint = "https://ehr.example/token/?tenant=1"\nkid = "k"\n').settings.ehrs
    assert (found.token_endpoint, found.kid, found.key_file) == ("https://ehr.example/token/?tenant=1", "k", tmp_path / "key.json")
    local = BACKEND.replace("https://ehr.example", "http://127.0.0.1:9") + 'token_endpoint = "http://127.0.0.1:9/t"\ntoken_loopback = true\n'
    assert read(tmp_path, local).settings.ehrs[0].token_loopback
    (tmp_path / "secret").write_text("s3cret\n")
    loaded = read(tmp_path, APP + 'client_secret_file = "secret"\n')
    assert loaded.settings.ehrs[0].app_secret() == "s3cret"
    assert read(tmp_path, APP, {"GATEWAY_EHR_A_CLIENT_SECRET": "by-variable"}).settings.ehrs[0].app_secret() == "by-variable"
    assert read(tmp_path, APP).settings.ehrs[0].app_secret() == ""


def test_relative_paths_count_from_where_they_stand(tmp_path):
    """A path in the file counts from the file's folder, so that the file means the same wherever the command is run."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "gateway.toml").write_text('data_dir = "data"\nstore = "sqlite:///state.db"\n')
    settings = load(config=folder / "gateway.toml", environ={}, cwd=tmp_path).settings
    assert settings.data_dir == folder / "data"
    assert settings.store == f"sqlite+aiosqlite:///{folder}/state.db"


def test_every_setting_has_help():
    """`gateway config` explains each."""
    for cls in (Settings, EhrSettings, SignInSettings):
        for name, spec in {n: f.metadata for n, f in cls.__dataclass_fields__.items()}.items():
            assert spec.get("help", "").endswith(".") or name in ("ehrs", "sign_in", "name")


def test_how_many_may_register(tmp_path):
    """Twenty an hour from one address, or as is set; the endpoint counts so."""
    assert read(tmp_path).settings.registration_rate == 20
    settings = read(tmp_path, "registration_rate = 7\n").settings
    said = smart_server.terms(settings, types=(), service="")
    assert smart_server.own_registrations(local.state(settings).ground, said)._most == 7
    assert "between 1 and" in str(refused(tmp_path, "registration_rate = 0\n"))


@pytest.mark.parametrize(("line", "problem"), [("push_attempts = 0", "between 1 and 100"), ('push_on_dead = "drop"', "not a choice")])
def test_how_pushes_end_is_set_within_limits(tmp_path, line, problem):
    """A dead message blocks what waits behind it, unless somebody wants it otherwise."""
    assert (read(tmp_path).settings.push_attempts, read(tmp_path).settings.push_on_dead) == (12, "block")
    loaded = read(tmp_path, 'push_attempts = 3\npush_on_dead = "skip"\n')
    assert (loaded.settings.push_attempts, loaded.settings.push_on_dead) == (3, "skip")
    assert {"push_attempts", "push_on_dead"} <= {one.name for one in loaded.listed() if one.source != "default"}
    assert problem in str(refused(tmp_path, line + "\n").message)


MAIL = 'notify = "smtp"\nsmtp = "smtp://mail.example:587"\nsmtp_from = "no-reply@clinic.example"\n'


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ('notify = "pigeon"\n', "gateway.toml:1", "console"),
        ('notify = "file"\n', "gateway.toml:1", "set notify_file"),
        ('notify = "smtp"\nsmtp = "smtp://mail.example:587"\n', "gateway.toml:1", "set smtp_from"),
        ('notify = "smtp"\nsmtp_from = "a@b.example"\n', "gateway.toml:1", "set smtp"),
        ('smtp_from = "a@b.example"\n', "gateway.toml:1", 'set notify = "smtp" as well'),
        ('notify = "console"\nnotify_file = "x"\n', "gateway.toml:2", 'set notify = "file" as well'),
        ('smtp = "mail.example"\n', "gateway.toml:1", "smtp://mail.example:587"),
        ('smtp = "smtp://mail.example"\n', "gateway.toml:1", "smtp://mail.example:587"),
        ('smtp = "smtp://me:secret@mail.example:587"\n', "gateway.toml:1", "smtp_password_file"),
        ('smtp_from = "Clinic <a@b.example>"\n', "gateway.toml:1", "no-reply@clinic.example"),
        (f'{MAIL}smtp_username = "gateway"\n', "smtp_username", "set smtp_password_file"),
        (f'{MAIL}smtp_password = "secret"\n', "gateway.toml:4", "GATEWAY_SMTP_PASSWORD"),
    ],
)
def test_how_people_are_reached_is_set_whole_or_refused(tmp_path, text, where, fix):
    """With the line and what to write; a secret is not repeated."""
    error = refused(tmp_path, text)
    assert error.where == where
    assert fix in error.fix
    assert "secret" not in error.message.replace("is a secret", "")


def test_a_mail_server_with_all_that_it_needs(tmp_path):
    """The password by variable or from a file, shown nowhere."""
    loaded = read(tmp_path, f'{MAIL}smtp_username = "gateway"\n', {"GATEWAY_SMTP_PASSWORD": "s3cret"})
    assert loaded.settings.mail_secret() == "s3cret"
    assert "s3cret" not in repr(loaded)
    assert "s3cret" not in str(loaded.listed())
    (tmp_path / "password").write_text("from-file\n")
    loaded = read(tmp_path, f'{MAIL}smtp_username = "gateway"\nsmtp_password_file = "password"\n')
    assert loaded.settings.mail_secret() == "from-file"
    assert read(tmp_path, MAIL).settings.mail_secret() == ""


IDP = '[sign_in.city]\nissuer = "https://idp.example/"\nclient_id = "gw"\nclient_secret_file = "secret"\n'


def test_a_provider_with_all_that_it_needs(tmp_path):
    """Its issuer stays as it is written; with one EHR its people are there; the secret is in no list."""
    (tmp_path / "secret").write_text("s3cret\n")
    loaded = read(tmp_path, EHR + IDP)
    (one,) = loaded.settings.sign_in
    assert (one.name, one.issuer, one.ehr, one.claim, one.secret()) == ("city", "https://idp.example/", "hapi", "fhirUser", "s3cret")
    shown = {item.name: item for item in loaded.listed()}
    assert shown["sign_in.city.issuer"].source == "gateway.toml:4"
    assert "s3cret" not in str(loaded.listed())


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ('[sign_in]\nissuer = "https://idp.example"\n', "gateway.toml:1", "[sign_in.issuer] and its issuer"),
        ('[sign_in.city]\nissuer = "https://idp.example"\n', "gateway.toml:4", "write client_id under [sign_in.city]"),
        (IDP.replace("https", "http"), "gateway.toml:4", "https URL"),
        (f'{IDP}ehr = "other"\n', "gateway.toml:4", "write ehr = NAME"),
        (f'{IDP}client_secret = "s3cret"\n', "gateway.toml:7", "client_secret_file"),
        ("[sign_in.City]\n", "gateway.toml:3", "lower-case"),
    ],
)
def test_a_provider_is_set_whole_or_refused(tmp_path, text, where, fix):
    """With the line and what to write."""
    (tmp_path / "secret").write_text("s3cret\n")
    error = refused(tmp_path, EHR + text)
    assert error.where == where
    assert fix in error.fix
    assert "s3cret" not in error.message


def test_several_ehrs_need_the_name_of_one(tmp_path):
    """Whose people they are is not guessed."""
    (tmp_path / "secret").write_text("s3cret\n")
    error = refused(tmp_path, EHR + EHR.replace("hapi", "other") + IDP)
    assert "at which EHR" in error.message


def test_the_launcher_is_off_unless_the_table_says_so(tmp_path):
    """[launcher] enabled and users; by variable too."""
    assert (read(tmp_path, EHR).settings.launcher_enabled, read(tmp_path, EHR).settings.launcher_users) == (False, ())
    loaded = read(tmp_path, EHR + '[launcher]\nenabled = true\nusers = ["dora", "ann-dev"]\n')
    assert (loaded.settings.launcher_enabled, loaded.settings.launcher_users) == (True, ("dora", "ann-dev"))
    listed = {one.name: (one.value, one.source) for one in loaded.listed()}
    assert listed["launcher_users"] == ("dora, ann-dev", "gateway.toml:5")
    assert read(tmp_path, EHR, {"GATEWAY_LAUNCHER_ENABLED": "true", "GATEWAY_LAUNCHER_USERS": "dora"}).settings.launcher_users == ("dora",)


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ('[launcher]\nusers = ["dora"]\n', "gateway.toml:2", "enabled = true"),
        ('[launcher]\nenabled = "perhaps"\n', "gateway.toml:2", "true or false"),
        ("[launcher]\nenabled = true\nusers = 5\n", "gateway.toml:3", '["one", "two"]'),
        ("[launcher]\nenable = true\n", "gateway.toml:2", "launcher_enabled"),
        ("launcher = true\n", "gateway.toml:1", "write [launcher]"),
    ],
)
def test_a_launcher_is_set_right_or_refused(tmp_path, text, where, fix):
    """With the line and the fix."""
    error = refused(tmp_path, text + EHR if text.startswith("launcher") else text)
    assert error.where == where
    assert fix in error.fix
