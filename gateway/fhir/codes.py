"""The codes that R4 requires, by resource type and element (required bindings of elements of type `code`).

Made by scripts/make-codes from FHIR R4 4.0.1 (Maven ca.uhn.hapi.fhir:hapi-fhir-validation-resources-r4:8.8.0);
not edited by hand. An element's path has `!` at the end where the element must be there whenever what holds it is.
Lists of more than 60 codes and bindings with filters are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, Mapping[str, str]] = {
    "Account": {
        "status!": "active inactive entered-in-error on-hold unknown",
    },
    "ActivityDefinition": {
        "intent": "proposal plan directive order original-order reflex-order filler-order instance-order option",
        "kind": (
            "Appointment AppointmentResponse CarePlan Claim CommunicationRequest Contract DeviceRequest "
            "EnrollmentRequest ImmunizationRecommendation MedicationRequest NutritionOrder ServiceRequest "
            "SupplyRequest Task VisionPrescription"
        ),
        "participant.type!": "patient practitioner related-person device",
        "priority": "routine urgent asap stat",
        "status!": "draft active retired unknown",
    },
    "AdverseEvent": {
        "actuality!": "actual potential",
    },
    "AllergyIntolerance": {
        "category": "food medication environment biologic",
        "criticality": "low high unable-to-assess",
        "reaction.severity": "mild moderate severe",
        "type": "allergy intolerance",
    },
    "Appointment": {
        "participant.required": "required optional information-only",
        "participant.status!": "accepted declined tentative needs-action",
        "status!": "proposed pending booked arrived fulfilled cancelled noshow entered-in-error checked-in waitlist",
    },
    "AppointmentResponse": {
        "participantStatus!": "accepted declined tentative needs-action",
    },
    "AuditEvent": {
        "action": "C R U D E",
        "agent.network.type": "1 2 3 4 5",
        "outcome": "0 4 8 12",
    },
    "BiologicallyDerivedProduct": {
        "productCategory": "organ tissue fluid cells biologicalAgent",
        "status": "available unavailable",
        "storage.scale": "farenheit celsius kelvin",
    },
    "Bundle": {
        "entry.request.method!": "GET HEAD POST PUT DELETE PATCH",
        "entry.search.mode": "match include outcome",
        "type!": "document message transaction transaction-response batch batch-response history searchset collection",
    },
    "CapabilityStatement": {
        "document.mode!": "producer consumer",
        "kind!": "instance capability requirements",
        "messaging.supportedMessage.mode!": "sender receiver",
        "rest.interaction.code!": "transaction batch search-system history-system",
        "rest.mode!": "client server",
        "rest.resource.conditionalDelete": "not-supported single multiple",
        "rest.resource.conditionalRead": "not-supported modified-since not-match full-support",
        "rest.resource.interaction.code!": "read vread update patch delete history-instance history-type create search-type",
        "rest.resource.referencePolicy": "literal logical resolves enforced local",
        "rest.resource.searchParam.type!": "number date string token reference composite quantity uri special",
        "rest.resource.versioning": "no-version versioned versioned-update",
        "status!": "draft active retired unknown",
    },
    "CarePlan": {
        "activity.detail.kind": (
            "Appointment CommunicationRequest DeviceRequest MedicationRequest NutritionOrder Task ServiceRequest VisionPrescription"
        ),
        "activity.detail.status!": "not-started scheduled in-progress on-hold completed cancelled stopped unknown entered-in-error",
        "intent!": "proposal plan order option",
        "status!": "draft active on-hold revoked completed entered-in-error unknown",
    },
    "CareTeam": {
        "status": "proposed active suspended inactive entered-in-error",
    },
    "CatalogEntry": {
        "relatedEntry.relationtype!": "triggers is-replaced-by",
        "status": "draft active retired unknown",
    },
    "ChargeItem": {
        "status!": "planned billable not-billable aborted billed entered-in-error unknown",
    },
    "ChargeItemDefinition": {
        "propertyGroup.priceComponent.type!": "base surcharge deduction discount tax informational",
        "status!": "draft active retired unknown",
    },
    "Claim": {
        "status!": "active cancelled draft entered-in-error",
        "use!": "claim preauthorization predetermination",
    },
    "ClaimResponse": {
        "outcome!": "queued complete error partial",
        "processNote.type": "display print printoper",
        "status!": "active cancelled draft entered-in-error",
        "use!": "claim preauthorization predetermination",
    },
    "ClinicalImpression": {
        "status!": "in-progress completed entered-in-error",
    },
    "CodeSystem": {
        "content!": "not-present example fragment complete supplement",
        "filter.operator!": "= is-a descendent-of is-not-a regex in not-in generalizes exists",
        "hierarchyMeaning": "grouped-by is-a part-of classified-with",
        "property.type!": "code Coding string integer boolean dateTime decimal",
        "status!": "draft active retired unknown",
    },
    "Communication": {
        "priority": "routine urgent asap stat",
        "status!": "preparation in-progress not-done on-hold stopped completed entered-in-error unknown",
    },
    "CommunicationRequest": {
        "priority": "routine urgent asap stat",
        "status!": "draft active on-hold revoked completed entered-in-error unknown",
    },
    "CompartmentDefinition": {
        "code!": "Patient Encounter RelatedPerson Practitioner Device",
        "status!": "draft active retired unknown",
    },
    "Composition": {
        "attester.mode!": "personal professional legal official",
        "confidentiality": "U L M N R V",
        "relatesTo.code!": "replaces transforms signs appends",
        "section.mode": "working snapshot changes",
        "status!": "preliminary final amended entered-in-error",
    },
    "ConceptMap": {
        "group.element.target.equivalence!": "relatedto equivalent equal wider subsumes narrower specializes inexact unmatched disjoint",
        "group.unmapped.mode!": "provided fixed other-map",
        "status!": "draft active retired unknown",
    },
    "Consent": {
        "provision.data.meaning!": "instance related dependents authoredby",
        "provision.type": "deny permit",
        "status!": "draft proposed active rejected inactive entered-in-error",
    },
    "Contract": {
        "contentDefinition.publicationStatus!": (
            "amended appended cancelled disputed entered-in-error executable executed negotiable offered policy "
            "rejected renewed revoked resolved terminated"
        ),
        "status": (
            "amended appended cancelled disputed entered-in-error executable executed negotiable offered policy "
            "rejected renewed revoked resolved terminated"
        ),
    },
    "Coverage": {
        "status!": "active cancelled draft entered-in-error",
    },
    "CoverageEligibilityRequest": {
        "purpose!": "auth-requirements benefits discovery validation",
        "status!": "active cancelled draft entered-in-error",
    },
    "CoverageEligibilityResponse": {
        "outcome!": "queued complete error partial",
        "purpose!": "auth-requirements benefits discovery validation",
        "status!": "active cancelled draft entered-in-error",
    },
    "DetectedIssue": {
        "severity": "high moderate low",
        "status!": "registered preliminary final amended corrected cancelled entered-in-error unknown",
    },
    "Device": {
        "deviceName.type!": "udi-label-name user-friendly-name patient-reported-name manufacturer-name model-name other",
        "status": "active inactive entered-in-error unknown",
        "udiCarrier.entryType": "barcode rfid manual card self-reported unknown",
    },
    "DeviceDefinition": {
        "deviceName.type!": "udi-label-name user-friendly-name patient-reported-name manufacturer-name model-name other",
    },
    "DeviceMetric": {
        "calibration.state": "not-calibrated calibration-required calibrated unspecified",
        "calibration.type": "unspecified offset gain two-point",
        "category!": "measurement setting calculation unspecified",
        "color": "black red green yellow blue magenta cyan white",
        "operationalStatus": "on off standby entered-in-error",
    },
    "DeviceRequest": {
        "intent!": "proposal plan directive order original-order reflex-order filler-order instance-order option",
        "priority": "routine urgent asap stat",
        "status": "draft active on-hold revoked completed entered-in-error unknown",
    },
    "DeviceUseStatement": {
        "status!": "active completed entered-in-error intended stopped on-hold",
    },
    "DiagnosticReport": {
        "status!": "registered partial preliminary final amended corrected appended cancelled entered-in-error unknown",
    },
    "DocumentManifest": {
        "status!": "current superseded entered-in-error",
    },
    "DocumentReference": {
        "docStatus": "preliminary final amended entered-in-error",
        "relatesTo.code!": "replaces transforms signs appends",
        "status!": "current superseded entered-in-error",
    },
    "EffectEvidenceSynthesis": {
        "resultsByExposure.exposureState": "exposure exposure-alternative",
        "status!": "draft active retired unknown",
    },
    "Encounter": {
        "location.status": "planned active reserved completed",
        "status!": "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown",
        "statusHistory.status!": "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown",
    },
    "Endpoint": {
        "status!": "active suspended error off entered-in-error test",
    },
    "EnrollmentRequest": {
        "status": "active cancelled draft entered-in-error",
    },
    "EnrollmentResponse": {
        "outcome": "queued complete error partial",
        "status": "active cancelled draft entered-in-error",
    },
    "EpisodeOfCare": {
        "status!": "planned waitlist active onhold finished cancelled entered-in-error",
        "statusHistory.status!": "planned waitlist active onhold finished cancelled entered-in-error",
    },
    "EventDefinition": {
        "status!": "draft active retired unknown",
    },
    "Evidence": {
        "status!": "draft active retired unknown",
    },
    "EvidenceVariable": {
        "characteristic.groupMeasure": "mean median mean-of-mean mean-of-median median-of-mean median-of-median",
        "status!": "draft active retired unknown",
        "type": "dichotomous continuous descriptive",
    },
    "ExampleScenario": {
        "actor.type!": "person entity",
        "status!": "draft active retired unknown",
    },
    "ExplanationOfBenefit": {
        "outcome!": "queued complete error partial",
        "processNote.type": "display print printoper",
        "status!": "active cancelled draft entered-in-error",
        "use!": "claim preauthorization predetermination",
    },
    "FamilyMemberHistory": {
        "status!": "partial completed entered-in-error health-unknown",
    },
    "Flag": {
        "status!": "active inactive entered-in-error",
    },
    "Goal": {
        "lifecycleStatus!": "proposed planned accepted active on-hold completed cancelled entered-in-error rejected",
    },
    "GraphDefinition": {
        "link.target.compartment.code!": "Patient Encounter RelatedPerson Practitioner Device",
        "link.target.compartment.rule!": "identical matching different custom",
        "link.target.compartment.use!": "condition requirement",
        "status!": "draft active retired unknown",
    },
    "Group": {
        "type!": "person animal practitioner device medication substance",
    },
    "GuidanceResponse": {
        "status!": "success data-requested data-required in-progress failure entered-in-error",
    },
    "HealthcareService": {
        "availableTime.daysOfWeek": "mon tue wed thu fri sat sun",
    },
    "ImagingStudy": {
        "status!": "registered available cancelled entered-in-error unknown",
    },
    "Immunization": {
        "status!": "completed entered-in-error not-done",
    },
    "ImmunizationEvaluation": {
        "status!": "completed entered-in-error",
    },
    "ImplementationGuide": {
        "definition.page.generation!": "html markdown xml generated",
        "definition.parameter.code!": (
            "apply path-resource path-pages path-tx-cache expansion-parameter rule-broken-links generate-xml "
            "generate-json generate-turtle html-template"
        ),
        "status!": "draft active retired unknown",
    },
    "InsurancePlan": {
        "status": "draft active retired unknown",
    },
    "Invoice": {
        "lineItem.priceComponent.type!": "base surcharge deduction discount tax informational",
        "status!": "draft issued balanced cancelled entered-in-error",
    },
    "Library": {
        "status!": "draft active retired unknown",
    },
    "Linkage": {
        "item.type!": "source alternate historical",
    },
    "List": {
        "mode!": "working snapshot changes",
        "status!": "current retired entered-in-error",
    },
    "Location": {
        "hoursOfOperation.daysOfWeek": "mon tue wed thu fri sat sun",
        "mode": "instance kind",
        "status": "active suspended inactive",
    },
    "Measure": {
        "status!": "draft active retired unknown",
    },
    "MeasureReport": {
        "status!": "complete pending error",
        "type!": "individual subject-list summary data-collection",
    },
    "Media": {
        "status!": "preparation in-progress not-done on-hold stopped completed entered-in-error unknown",
    },
    "Medication": {
        "status": "active inactive entered-in-error",
    },
    "MedicationAdministration": {
        "status!": "in-progress not-done on-hold completed entered-in-error stopped unknown",
    },
    "MedicationDispense": {
        "status!": "preparation in-progress cancelled on-hold completed entered-in-error stopped declined unknown",
    },
    "MedicationKnowledge": {
        "status": "active inactive entered-in-error",
    },
    "MedicationRequest": {
        "intent!": "proposal plan order original-order reflex-order filler-order instance-order option",
        "priority": "routine urgent asap stat",
        "status!": "active on-hold cancelled completed entered-in-error stopped draft unknown",
    },
    "MedicationStatement": {
        "status!": "active completed entered-in-error intended stopped on-hold unknown not-taken",
    },
    "MessageDefinition": {
        "category": "consequence currency notification",
        "responseRequired": "always on-error never on-success",
        "status!": "draft active retired unknown",
    },
    "MessageHeader": {
        "response.code!": "ok transient-error fatal-error",
    },
    "MolecularSequence": {
        "quality.type!": "indel snp unknown",
        "referenceSeq.orientation": "sense antisense",
        "referenceSeq.strand": "watson crick",
        "repository.type!": "directlink openapi login oauth other",
        "type": "aa dna rna",
    },
    "NamingSystem": {
        "kind!": "codesystem identifier root",
        "status!": "draft active retired unknown",
        "uniqueId.type!": "oid uuid uri other",
    },
    "NutritionOrder": {
        "intent!": "proposal plan directive order original-order reflex-order filler-order instance-order option",
        "status!": "draft active on-hold revoked completed entered-in-error unknown",
    },
    "Observation": {
        "status!": "registered preliminary final amended corrected cancelled entered-in-error unknown",
    },
    "ObservationDefinition": {
        "permittedDataType": "Quantity CodeableConcept string boolean integer Range Ratio SampledData time dateTime Period",
        "qualifiedInterval.category": "reference critical absolute",
        "qualifiedInterval.gender": "male female other unknown",
    },
    "OperationDefinition": {
        "kind!": "operation query",
        "parameter.binding.strength!": "required extensible preferred example",
        "parameter.searchType": "number date string token reference composite quantity uri special",
        "parameter.use!": "in out",
        "status!": "draft active retired unknown",
    },
    "OperationOutcome": {
        "issue.code!": (
            "invalid structure required value invariant security login unknown expired forbidden suppressed "
            "processing not-supported duplicate multiple-matches not-found deleted too-long code-invalid "
            "extension too-costly business-rule conflict transient lock-error no-store exception timeout "
            "incomplete throttled informational"
        ),
        "issue.severity!": "fatal error warning information",
    },
    "Patient": {
        "contact.gender": "male female other unknown",
        "gender": "male female other unknown",
        "link.type!": "replaced-by replaces refer seealso",
    },
    "PaymentNotice": {
        "status!": "active cancelled draft entered-in-error",
    },
    "PaymentReconciliation": {
        "outcome": "queued complete error partial",
        "processNote.type": "display print printoper",
        "status!": "active cancelled draft entered-in-error",
    },
    "Person": {
        "gender": "male female other unknown",
        "link.assurance": "level1 level2 level3 level4",
    },
    "PlanDefinition": {
        "action.cardinalityBehavior": "single multiple",
        "action.condition.kind!": "applicability start stop",
        "action.groupingBehavior": "visual-group logical-group sentence-group",
        "action.participant.type!": "patient practitioner related-person device",
        "action.precheckBehavior": "yes no",
        "action.priority": "routine urgent asap stat",
        "action.relatedAction.relationship!": (
            "before-start before before-end concurrent-with-start concurrent concurrent-with-end after-start after after-end"
        ),
        "action.requiredBehavior": "must could must-unless-documented",
        "action.selectionBehavior": "any all all-or-none exactly-one at-most-one one-or-more",
        "status!": "draft active retired unknown",
    },
    "Practitioner": {
        "gender": "male female other unknown",
    },
    "PractitionerRole": {
        "availableTime.daysOfWeek": "mon tue wed thu fri sat sun",
    },
    "Procedure": {
        "status!": "preparation in-progress not-done on-hold stopped completed entered-in-error unknown",
    },
    "Provenance": {
        "entity.role!": "derivation revision quotation source removal",
    },
    "Questionnaire": {
        "item.enableBehavior": "all any",
        "item.enableWhen.operator!": "exists = != > < >= <=",
        "item.type!": (
            "group display question boolean decimal integer date dateTime time string text url choice open-choice attachment reference quantity"
        ),
        "status!": "draft active retired unknown",
    },
    "QuestionnaireResponse": {
        "status!": "in-progress completed amended entered-in-error stopped",
    },
    "RelatedPerson": {
        "gender": "male female other unknown",
    },
    "RequestGroup": {
        "action.cardinalityBehavior": "single multiple",
        "action.condition.kind!": "applicability start stop",
        "action.groupingBehavior": "visual-group logical-group sentence-group",
        "action.precheckBehavior": "yes no",
        "action.priority": "routine urgent asap stat",
        "action.relatedAction.relationship!": (
            "before-start before before-end concurrent-with-start concurrent concurrent-with-end after-start after after-end"
        ),
        "action.requiredBehavior": "must could must-unless-documented",
        "action.selectionBehavior": "any all all-or-none exactly-one at-most-one one-or-more",
        "intent!": "proposal plan directive order original-order reflex-order filler-order instance-order option",
        "priority": "routine urgent asap stat",
        "status!": "draft active on-hold revoked completed entered-in-error unknown",
    },
    "ResearchDefinition": {
        "status!": "draft active retired unknown",
    },
    "ResearchElementDefinition": {
        "characteristic.participantEffectiveGroupMeasure": "mean median mean-of-mean mean-of-median median-of-mean median-of-median",
        "characteristic.studyEffectiveGroupMeasure": "mean median mean-of-mean mean-of-median median-of-mean median-of-median",
        "status!": "draft active retired unknown",
        "type!": "population exposure outcome",
        "variableType": "dichotomous continuous descriptive",
    },
    "ResearchStudy": {
        "status!": (
            "active administratively-completed approved closed-to-accrual closed-to-accrual-and-intervention "
            "completed disapproved in-review temporarily-closed-to-accrual "
            "temporarily-closed-to-accrual-and-intervention withdrawn"
        ),
    },
    "ResearchSubject": {
        "status!": (
            "candidate eligible follow-up ineligible not-registered off-study on-study on-study-intervention "
            "on-study-observation pending-on-study potential-candidate screening withdrawn"
        ),
    },
    "RiskAssessment": {
        "status!": "registered preliminary final amended corrected cancelled entered-in-error unknown",
    },
    "RiskEvidenceSynthesis": {
        "status!": "draft active retired unknown",
    },
    "SearchParameter": {
        "comparator": "eq ne gt lt ge le sa eb ap",
        "modifier": "missing exact contains not text in not-in below above type identifier ofType",
        "status!": "draft active retired unknown",
        "type!": "number date string token reference composite quantity uri special",
        "xpathUsage": "normal phonetic nearby distance other",
    },
    "ServiceRequest": {
        "intent!": "proposal plan directive order original-order reflex-order filler-order instance-order option",
        "priority": "routine urgent asap stat",
        "status!": "draft active on-hold revoked completed entered-in-error unknown",
    },
    "Slot": {
        "status!": "busy free busy-unavailable busy-tentative entered-in-error",
    },
    "Specimen": {
        "status": "available unavailable unsatisfactory entered-in-error",
    },
    "SpecimenDefinition": {
        "typeTested.preference!": "preferred alternate",
    },
    "StructureDefinition": {
        "context.type!": "fhirpath element extension",
        "derivation": "specialization constraint",
        "kind!": "primitive-type complex-type resource logical",
        "status!": "draft active retired unknown",
    },
    "StructureMap": {
        "group.input.mode!": "source target",
        "group.rule.source.listMode": "first not_first last not_last only_one",
        "group.rule.target.contextType": "type variable",
        "group.rule.target.listMode": "first share last collate",
        "group.rule.target.transform": ("create copy truncate escape cast append translate reference dateOp uuid pointer evaluate cc c qty id cp"),
        "group.typeMode!": "none types type-and-types",
        "status!": "draft active retired unknown",
        "structure.mode!": "source queried target produced",
    },
    "Subscription": {
        "channel.type!": "rest-hook websocket email sms message",
        "status!": "requested active error off",
    },
    "Substance": {
        "status": "active inactive entered-in-error",
    },
    "SupplyDelivery": {
        "status": "in-progress completed abandoned entered-in-error",
    },
    "SupplyRequest": {
        "priority": "routine urgent asap stat",
        "status": "draft active suspended cancelled completed entered-in-error unknown",
    },
    "Task": {
        "intent!": "unknown proposal plan order original-order reflex-order filler-order instance-order option",
        "priority": "routine urgent asap stat",
        "status!": ("draft requested received accepted rejected ready cancelled in-progress on-hold failed completed entered-in-error"),
    },
    "TerminologyCapabilities": {
        "codeSearch": "explicit all",
        "kind!": "instance capability requirements",
        "status!": "draft active retired unknown",
    },
    "TestReport": {
        "participant.type!": "test-engine client server",
        "result!": "pass fail pending",
        "setup.action.assert.result!": "pass skip fail warning error",
        "setup.action.operation.result!": "pass skip fail warning error",
        "status!": "completed in-progress waiting stopped entered-in-error",
    },
    "TestScript": {
        "setup.action.assert.direction": "response request",
        "setup.action.assert.operator": "equals notEquals in notIn greaterThan lessThan empty notEmpty contains notContains eval",
        "setup.action.assert.requestMethod": "delete get options patch post put head",
        "setup.action.assert.response": (
            "okay created noContent notModified bad forbidden notFound methodNotAllowed conflict gone preconditionFailed unprocessable"
        ),
        "setup.action.operation.method": "delete get options patch post put head",
        "status!": "draft active retired unknown",
    },
    "ValueSet": {
        "compose.include.filter.op!": "= is-a descendent-of is-not-a regex in not-in generalizes exists",
        "status!": "draft active retired unknown",
    },
    "VerificationResult": {
        "status!": "attested validated in-process req-revalid val-fail reval-fail",
    },
    "VisionPrescription": {
        "lensSpecification.eye!": "right left",
        "lensSpecification.prism.base!": "up down in out",
        "status!": "active cancelled draft entered-in-error",
    },
}
