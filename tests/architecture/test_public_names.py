"""The public names are few, and a change of them is a decision: it changes this file too."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "steadynorm": "Agent GradientStabilizer Mode PRESETS Settings __version__ attach",
    "steadynorm_contract.bulk": "MAX_SELECTED Bulk BulkAnswer BulkOutcome BulkRow Selection",
    "steadynorm_contract.chain": "link verify",
    "steadynorm_contract.client": (
        "Client ClientError Conflict Forbidden InvalidChange NotFound ServerUnreachable Unauthorized"
    ),
    "steadynorm_contract.codec": (
        "MalformedMessage UnsupportedVersion decode_batch decode_json decode_registration encode_batch encode_json"
    ),
    "steadynorm_contract.counters": "COUNTERS is_more resolve",
    "steadynorm_contract.heatmap": "HEATMAP_SIGNALS Heatmap",
    "steadynorm_contract.home": "DEFAULT_SERVER ServerAddress find_server find_token home is_loopback",
    "steadynorm_contract.presets": "PRESETS expand",
    "steadynorm_contract.records": (
        "AgentCounters AgentNote AppliedReport Desired MAX_BATCH_BYTES MAX_BATCH_ID_LENGTH MAX_NAME_LENGTH "
        "MAX_PARAMETERS NoteKind Parameter ParameterRows ROW_COLUMNS Registered RevisionOutcome RunEnd RunFinish "
        "RunRegistration SCALAR_COLUMNS SCHEMA_VERSION StepScalars TelemetryAnswer TelemetryBatch "
        "floats_from_bytes floats_to_bytes"
    ),
    "steadynorm_contract.retention": "Keeping Retention RetentionChange RetentionSet",
    "steadynorm_contract.rule": ("Outcome SPIKE_RATIO THROTTLED_TARGET TensorState advance reset spike_ceiling target"),
    "steadynorm_contract.schedules": "MAX_SCHEDULES NewSchedule Schedule ScheduleList ScheduleState",
    "steadynorm_contract.settings": "FieldError Mode SETTING_RULES Settings SettingsError Transfer merge",
    "steadynorm_contract.undo": "back_to",
    "steadynorm_contract.views": (
        "Applied AuditChain AuditEntry AuditList Change DesiredView Event EventKind EventList Health Me "
        "ParameterList ParameterView Problem RevisionState RunCounters RunDetail RunList RunState RunSummary "
        "Series SeriesAnswer UNSUPPORTED_VERSION"
    ),
    "steadynorm_contract.watch_rules": (
        "Comparison Condition MAX_RULES RuleList RuleSet RuleView WATCHED WatchRule parse_condition show_condition"
    ),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_exports_exactly_its_public_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == sorted(PUBLIC[module].split())
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None
