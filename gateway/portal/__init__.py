"""Portal feature -> FHIR, one file a feature. `features` is the table; `chart` is the one way to the pipeline; features do not import each other."""
