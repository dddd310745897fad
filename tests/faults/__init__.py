"""The fault suite: broken models whose fault is known, and healthy ones that look broken.

``python -m tests.faults`` compares each of them through both exporters and counts how often the
report's first culprit is the module that holds the fault, how often the cause is right, and how
many controls are blamed. What a case expects was decided from what is wrong in it: from the place of
the edit, or by holding the exported graph against the operator's definition.

A module per kind: :mod:`injected` (and two faults at once), :mod:`baked` (constants), :mod:`organic`
(branches, modes), :mod:`translated` and :mod:`translated_attention` (operators that exporters
translate otherwise), :mod:`inputs`, :mod:`weights`, :mod:`runtime`, :mod:`controls`. ``--shift N`` puts
the injected faults at other places.
"""
