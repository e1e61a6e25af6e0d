# SPDX-License-Identifier: Apache-2.0
"""A push that fails leaves nothing half; what cannot be pushed is refused before anything is sent."""

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from hf_ganzip.publishing import check

from ..hub import CUT, HALF
from .conftest import commits, push, quantized


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")  # huggingface_hub's call of httpx
OLD_HUB = int(huggingface_hub.__version__.partition(".")[0]) < 2


class TestNothingHalf:
    @pytest.mark.parametrize(
        "run, kind, said",
        [
            ("run_snippet", "output", "output of model. Nothing was uploaded"),
            ("run_remote_snippet", "tensors", r"tensors of model \(with trust_remote_code=True\)"),
        ],
    )
    def test_a_model_that_loads_with_other_bits_stays_here(self, hub, equal, monkeypatch, run, kind, said):
        model = quantized()
        found = check.fingerprint(model)
        found["model"][kind] = "0" * 64
        monkeypatch.setattr(f"hf_ganzip.publishing.push.{run}", lambda *args, **options: found)
        with pytest.raises(ValueError, match=f"other bits: {said}"):
            push(model)
        assert hub.requests == []

    @pytest.mark.process
    def test_a_weight_that_is_not_saved_is_found(self, hub):
        model = quantized()
        model.synthesis.b8.conv0.register_buffer("forgotten", torch.ones(2))  # the class has no such buffer
        with pytest.raises((ValueError, RuntimeError)):
            push(model)
        assert hub.requests == []

    @pytest.mark.parametrize(
        "fault, status, message",
        [
            ("POST /api/repos/create", 401, "log in"),
            ("POST /api/repos/create", 403, "no write permission"),
            ("POST /api/models/me/small/preupload", 404, "no such repository"),
            ("POST /api/models/me/small/commit", 409, "somebody else"),
            ("POST /api/models/me/small/commit", 412, "has moved"),
            ("POST /api/repos/create", 500, "no commit was made"),
            ("POST /api/repos/create", 429, "too many requests"),
            ("POST /api/models/me/small/commit", 500, "is not known: look at the repository"),
            ("POST /api/models/me/small/commit", CUT, "is not known: look at the repository"),
            ("PUT /lfs/", 403, "the answer was 403; the store of large files"),
        ],
    )
    def test_faults_leave_no_commit_and_the_next_try_succeeds(self, hub, equal, fault, status, message):
        hub.faults[fault] = [status]
        model = quantized()
        with pytest.raises(ConnectionError, match=message):
            push(model)
        assert commits(hub) == 0
        sent = sum(request.startswith("PUT /lfs/") for request in hub.requests)
        push(model)
        assert commits(hub) == 1
        again = sum(request.startswith("PUT /lfs/") for request in hub.requests) - sent
        arrived = 0 if "/lfs/" in fault else sent
        assert (arrived, again) in ((1, 0), (0, 1)), hub.requests  # what has arrived is not sent twice

    @pytest.mark.parametrize("kind", [CUT, HALF], ids=["cut", "half"])
    def test_a_cut_in_the_middle_of_the_files(self, hub, equal, kind):
        hub.faults["PUT /lfs/"] = [kind]
        model = quantized()
        try:
            push(model)  # huggingface_hub 2 tries the file again by itself
        except ConnectionError as error:  # huggingface_hub 1 leaves that to the caller
            assert OLD_HUB and "no commit was made" in str(error)
            assert commits(hub) == 0
            push(model)
        assert commits(hub) == 1
        assert sum(request.startswith("PUT /lfs/") for request in hub.requests) == 2

    def test_no_hub_at_all(self, hub, equal, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ConnectionError, match="me/small"):
            push(quantized())

    @pytest.mark.parametrize("name", ["small", "a/b/c", "/small", "me/", "me/x y", "me/a--b"])
    def test_bad_names(self, hub, name):
        with pytest.raises(ValueError, match="namespace/name"):
            push(quantized(), name, dry_run=True)

    def test_what_is_refused_before_anything_is_made(self, hub):
        for dry_run in (True, False):
            with pytest.raises(ValueError, match="a pull request goes to main"):
                push(quantized(), create_pr=True, revision="dev", dry_run=dry_run)
        with pytest.raises(TypeError, match="no report that a card shows"):
            push(quantized(), report={"foo": 1})
        with pytest.raises(TypeError, match="a dict is no model"):
            push({})
        assert hub.requests == []
