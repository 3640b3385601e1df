"""Python fhirclient: its launch, its patient, its search and pages; at a 401 its patient is read again after a refresh."""

from fhirclient import client
from fhirclient.models.condition import Condition
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from talk import ask, refused, tell, told

SETTINGS = {"app_id": told["client_id"], "app_secret": told["secret"], "redirect_uri": told["redirect_uri"]}
# It adds launch/patient by itself, whether or not it is here.
SCOPE = "openid fhirUser offline_access launch/patient patient/Patient.read patient/Observation.read"


def launched(base):
    """A client that was let in, or its error."""
    smart = client.FHIRClient({**SETTINGS, "api_base": base, "scope": SCOPE})
    smart.prepare()
    smart.handle_callback(ask("open", url=smart.authorize_url))
    return smart


smart = launched(told["base"])
name = smart.human_name(smart.patient.name[0])
search = Observation.where({"patient": smart.patient_id, "_count": "10"})
pages = [[entry.resource.id for entry in bundle.entry] for bundle in search.perform_iter(smart.server)]
first = smart.server.auth.access_token

ask("expire")
smart._patient = None  # what it read before is kept otherwise
again = smart.human_name(smart.patient.name[0])

tell(
    name=name,
    pages=pages,
    again=again,
    refreshed=smart.server.auth.access_token != first,
    forbidden=refused(lambda: Patient.read("bob", smart.server)),
    type=refused(lambda: Condition.where({"patient": smart.patient_id}).perform_resources(smart.server)),
    # With a slash at the end, so is the audience that it names.
    slash=refused(lambda: launched(told["base"] + "/")),
    # The same server by another name is another audience.
    audience=refused(lambda: launched(told["base"].replace("127.0.0.1", "localhost"))),
)
