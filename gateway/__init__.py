"""A FHIR-native interoperability gateway: SMART on FHIR, a patient portal and a durable inbox in front of EHR servers."""

__version__ = "0.1.0"
