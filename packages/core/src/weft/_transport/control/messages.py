"""The messages of packages/core/proto/weft/control.proto as classes.

They are made from the definition (descriptor.py) when this is loaded; their types stand in
`messages.pyi`.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from weft._transport.control.descriptor import SERIALIZED

_file = descriptor_pb2.FileDescriptorSet.FromString(SERIALIZED).file[0]
_pool = descriptor_pool.Default()
_pool.AddSerializedFile(_file.SerializeToString())
DESCRIPTOR = _pool.FindFileByName(_file.name)
for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = EnumTypeWrapper(_enum)
    globals().update({_value.name: _value.number for _value in _enum.values})
