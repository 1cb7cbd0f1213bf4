"""The public names are few, and a change of them is a decision: it changes this file too."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

PUBLIC = {
    "steadynorm": (
        "Agent Client DETECTORS GradientStabilizer Mode PRESETS Recovery RollbackEvent Settings __version__ attach"
    ),
    "steadynorm_contract.audit": (
        "AuditChain AuditEntry AuditList SettingsChange chained_hash entry_hash revert_to verify"
    ),
    "steadynorm_contract.bulk": "Bulk BulkOutcome BulkResponse BulkRow MAX_SELECTED Selection",
    "steadynorm_contract.configuration": (
        "HIDDEN MAX_CONFIG_BYTES MAX_CONFIG_DEPTH MAX_FACTS MAX_FACT_LENGTH RunConfiguration flattened is_secret "
        "is_too_deep"
    ),
    "steadynorm_contract.scalars": (
        "MAX_SCALARS MAX_SCALAR_GROUPS MAX_SCALAR_NAME_LENGTH MAX_SCALAR_RECORDS MAX_SENTENCE_LENGTH MAX_UNIT_LENGTH "
        "NONFINITE_PREFIX ScalarDescription ScalarRecords ScalarView logged_signal name_problem"
    ),
    "steadynorm_contract.changes": "Change PRESETS expand parse_assignments",
    "steadynorm_contract.clipping": "ALPHA AUTO CLIP_EPS RecentNorms USUAL_DECAY UsualFactor WARM_UP Z clip_factor",
    "steadynorm_contract.client": (
        "Client ClientError Conflict Finding Forbidden InvalidChange NotFound OutcomeUnknown ServerUnreachable "
        "Unauthorized"
    ),
    "steadynorm_contract.client_errors": (
        "BY_STATUS ClientError Conflict Finding Forbidden InvalidChange NotFound OutcomeUnknown ServerUnreachable "
        "Unauthorized"
    ),
    "steadynorm_contract.client_transport": "Look Transport",
    "steadynorm_contract.codec": (
        "MalformedMessage UnsupportedVersion decode_batch decode_json decode_registration encodable encode_batch "
        "encode_json"
    ),
    "steadynorm_contract.conditions": (
        "Baseline Comparison Condition WATCHED condition_errors no_value_words parse_condition scalar_warning "
        "show_condition"
    ),
    "steadynorm_contract.detectors": "Detector DetectorState",
    "steadynorm_contract.discovery": (
        "DEFAULT_SERVER ELSEWHERE OwnServer ServerAddress attach_lines check_address data_dir find_server find_token "
        "is_loopback is_service_link listener_url own_server read_address"
    ),
    "steadynorm_contract.events": "Event EventKind EventList",
    "steadynorm_contract.fleet": "FleetResponse FleetRun MAX_COLUMNS FleetSort LastChange Spark",
    "steadynorm_contract.forecast": (
        "HORIZONS Memory Outlook Present calm_norms candidates consequences forecast memory present recent "
        "throttled_words"
    ),
    "steadynorm_contract.incidents": "IncidentState IncidentStatus",
    "steadynorm_contract.knobs": (
        "ALL_KNOBS KNOB_PREFIX MAX_KNOBS MAX_KNOB_NAME_LENGTH Knob KnobKind is_allowed is_knob knob_name_problem "
        "near_names"
    ),
    "steadynorm_contract.networks": "Network is_within read_networks",
    "steadynorm_contract.notes": (
        "MAX_NAME_OF_HOLDER MAX_NOTE_LENGTH NewNote Note NoteAction NoteList action_words verify_notes"
    ),
    "steadynorm_contract.hash_chain": "chained_hash",
    "steadynorm_contract.lifecycle": (
        "DEFAULT_GRACE_S LifecycleChange MAX_GRACE_S Restoration RunUpdate TRAINS_ON Visibility lifecycle_words "
        "verify_lifecycle"
    ),
    "steadynorm_contract.outcomes": (
        "Reader bulk_change deletion note_added proposal_decided proposal_made restoration retention_change "
        "rules_change run_update schedule_cancelled schedule_made settings_change"
    ),
    "steadynorm_contract.problems": "Problem UNSUPPORTED_VERSION",
    "steadynorm_contract.proposals": "MAX_PROPOSALS Decision NewProposal Proposal ProposalList ProposalState",
    "steadynorm_contract.retention": "Retention RetentionChange RetentionLimits RetentionUpdate",
    "steadynorm_contract.rule": (
        "BASELINE_DECAY BASELINE_LIMIT BASELINE_WEIGHT Outcome RECOVERED_TARGET SPIKE_RATIO THROTTLED_SHARE "
        "THROTTLED_TARGET TensorState advance fade is_throttled reset spike_ceiling spike_memory target"
    ),
    "steadynorm_contract.runs": (
        "Applied DesiredView Health RevisionState RunCounters RunDetail RunList RunState RunSummary"
    ),
    "steadynorm_contract.schedules": "MAX_SCHEDULES NewSchedule Schedule ScheduleList ScheduleState",
    "steadynorm_contract.series": "HEATMAP_SIGNALS Heatmap ParameterList ParameterView Series SeriesResponse",
    "steadynorm_contract.setting_checks": (
        "boolean choice clip_norm counter decay detail_every eps lr lr_scale number shown spike_limit step"
    ),
    "steadynorm_contract.settings": (
        "COUNTERS FieldError LATER_SETTINGS Mode RecoveryMode SETTING_RULES Settings SettingsError Transfer by_name "
        "is_increment keeps_spikes_out later_settings merge resolve_increments with_knobs without_later"
    ),
    "steadynorm_contract.signals": "DERIVED PARAMETER_SIGNALS SCALARS Signal signal",
    "steadynorm_contract.telemetry": (
        "AgentCounters AgentNote AppliedReport Desired DetectorStatus MAX_BATCH_BYTES MAX_BATCH_ID_LENGTH "
        "MAX_DETECTORS MAX_NAME_LENGTH "
        "MAX_PARAMETERS MAX_REGISTRATION_BYTES MAX_TAGS MAX_TAG_NAME_LENGTH MAX_TEXT_LENGTH NoteKind PACE_S Parameter "
        "ParameterRows ROW_COLUMNS RecoveryStatus Registered RevisionOutcome RunEnd RunFinish RunRegistration "
        "SCALAR_COLUMNS SCHEMA_VERSION SpikeReference StepScalars TelemetryAck TelemetryBatch UserNote "
        "floats_from_bytes floats_to_bytes"
    ),
    "steadynorm_contract.tokens": "Quota TokenInfo",
    "steadynorm_contract.versions": "versions_differ",
    "steadynorm_contract.watch_rules": (
        "Comparison Condition MAX_RULES RuleList RuleSet RuleView WATCHED WatchRule parse_condition show_condition"
    ),
    "steadynorm_contract.webhooks": "AuditMessage WebhookEvent WebhookMessage",
    "steadynorm_contract.words": "counted",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_exports_exactly_its_public_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == sorted(PUBLIC[module].split())
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def test_every_module_of_the_contract_is_pinned(root: Path) -> None:
    modules = {path.stem for path in (root / "contract/steadynorm_contract").glob("*.py")} - {"__init__"}
    assert {f"steadynorm_contract.{module}" for module in modules} == set(PUBLIC) - {"steadynorm"}
