"""Reads a mail from standard input by Python's own parser and prints it as JSON: headers, parts, defects."""
import email
import email.policy
import json
import sys

mail = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)
parts = [
    {"type": part.get_content_type(), "text": part.get_content(), "defects": [str(d) for d in part.defects]}
    for part in mail.walk()
    if not part.is_multipart()
]
print(
    json.dumps(
        {
            "type": mail.get_content_type(),
            "headers": [[name, str(value)] for name, value in mail.items()],
            "defects": [str(d) for d in mail.defects],
            # A user of this host has no domain before a mail system gives it one.
            "header_defects": [
                str(d) for _, value in mail.items() for d in value.defects if "with no domain" not in str(d)
            ],
            "parts": parts,
        }
    )
)
