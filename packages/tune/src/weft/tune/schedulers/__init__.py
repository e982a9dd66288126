"""What decides, after each result, which trials go on."""

from weft.tune.schedulers.async_hyperband import ASHAScheduler, AsyncHyperBandScheduler
from weft.tune.schedulers.creation import create_scheduler
from weft.tune.schedulers.fifo import FIFOScheduler
from weft.tune.schedulers.hb_bohb import HyperBandForBOHB
from weft.tune.schedulers.hyperband import HyperBandScheduler
from weft.tune.schedulers.median_stopping_rule import MedianStoppingRule
from weft.tune.schedulers.pbt import PopulationBasedTraining
from weft.tune.schedulers.pbt_replay import PopulationBasedTrainingReplay
from weft.tune.schedulers.resource_changing_scheduler import ResourceChangingScheduler
from weft.tune.schedulers.trial_scheduler import TrialScheduler

__all__ = [
    "ASHAScheduler",
    "AsyncHyperBandScheduler",
    "FIFOScheduler",
    "HyperBandForBOHB",
    "HyperBandScheduler",
    "MedianStoppingRule",
    "PopulationBasedTraining",
    "PopulationBasedTrainingReplay",
    "ResourceChangingScheduler",
    "TrialScheduler",
    "create_scheduler",
]
