"""Rank tables as users have them: the two samples of the Code Llama card, word for word, and ModelArts' forms."""

ONE_SERVER = """\
{
    "version": "1.0",
    "server_count": "1",
    "server_list": [
        {
            "server_id": "xx.xx.xx.xx",
            "device": [
                {"device_id": "0","device_ip": "192.1.27.6","rank_id": "0"},
                {"device_id": "1","device_ip": "192.2.27.6","rank_id": "1"},
                {"device_id": "2","device_ip": "192.3.27.6","rank_id": "2"},
                {"device_id": "3","device_ip": "192.4.27.6","rank_id": "3"},
                {"device_id": "4","device_ip": "192.1.27.7","rank_id": "4"},
                {"device_id": "5","device_ip": "192.2.27.7","rank_id": "5"},
                {"device_id": "6","device_ip": "192.3.27.7","rank_id": "6"},
                {"device_id": "7","device_ip": "192.4.27.7","rank_id": "7"}],
             "host_nic_ip": "reserve"
        }
    ],
    "status": "completed"
}
"""
"""One machine, 8 devices."""

TWO_SERVERS = """\
{
    "version": "1.0",
    "server_count": "2",
    "server_list": [
        {
            "server_id": "xx.xx.xx.xx",
            "device": [
                {
                    "device_id": "0", "device_ip": "192.168.0.0", "rank_id": "0"
                },
                {
                    "device_id": "1", "device_ip": "192.168.1.0", "rank_id": "1"
                },
                {
                    "device_id": "2", "device_ip": "192.168.2.0", "rank_id": "2"
                },
                {
                    "device_id": "3", "device_ip": "192.168.3.0", "rank_id": "3"
                },
                {
                    "device_id": "4", "device_ip": "192.168.0.1", "rank_id": "4"
                },
                {
                    "device_id": "5", "device_ip": "192.168.1.1", "rank_id": "5"
                },
                {
                    "device_id": "6", "device_ip": "192.168.2.1", "rank_id": "6"
                },
                {
                    "device_id": "7", "device_ip": "192.168.3.1", "rank_id": "7"
                }
            ],
            "host_nic_ip": "reserve"
        },
        {
            "server_id": "xx.xx.xx.xx",
            "device": [
                {
                    "device_id": "0", "device_ip": "192.168.0.1", "rank_id": "8"
                },
                {
                    "device_id": "1", "device_ip": "192.168.1.1", "rank_id": "9"
                },
                {
                    "device_id": "2", "device_ip": "192.168.2.1", "rank_id": "10"
                },
                {
                    "device_id": "3", "device_ip": "192.168.3.1", "rank_id": "11"
                },
                {
                    "device_id": "4", "device_ip": "192.168.0.2", "rank_id": "12"
                },
                {
                    "device_id": "5", "device_ip": "192.168.1.2", "rank_id": "13"
                },
                {
                    "device_id": "6", "device_ip": "192.168.2.2", "rank_id": "14"
                },
                {
                    "device_id": "7", "device_ip": "192.168.3.2", "rank_id": "15"
                }
            ],
            "host_nic_ip": "reserve"
        }
    ],
    "status": "completed"
}
"""
"""Two machines, 16 devices; four device addresses are in it twice, and the machines' addresses are left to fill in."""

MODELARTS_GROUPS = """\
{
  "status": "completed",
  "group_count": "1",
  "group_list": [
    {
      "group_name": "job-a",
      "device_count": "4",
      "instance_count": "2",
      "instance_list": [
        {
          "pod_name": "job-a-1",
          "server_id": "10.0.0.79",
          "devices": [{"device_id": "0", "device_ip": "10.1.0.1"}, {"device_id": "1", "device_ip": "10.1.0.2"}]
        },
        {
          "pod_name": "job-a-0",
          "server_id": "10.0.0.142",
          "devices": [{"device_id": "0", "device_ip": "10.1.0.3"}, {"device_id": "1", "device_ip": "10.1.0.4"}]
        }
      ]
    }
  ]
}"""
"""What ModelArts mounts into a job's container: no ranks, the pod's number gives the order."""

TEMPLATE_2 = """\
{
  "board_id": "0x0020",
  "chip_info": "910",
  "deploy_mode": "lab",
  "group_count": "1",
  "group_list": [
    {
      "device_num": "2",
      "server_num": "1",
      "group_name": "",
      "instance_count": "2",
      "instance_list": [
        {"devices": [{"device_id": "1", "device_ip": "10.1.0.2"}], "rank_id": "1", "server_id": "10.0.0.9"},
        {"devices": [{"device_id": "0", "device_ip": "10.1.0.1"}], "rank_id": "0", "server_id": "10.0.0.9"}
      ]
    }
  ],
  "para_plane_nic_location": "device",
  "para_plane_nic_name": ["eth0", "eth1"],
  "para_plane_nic_num": "2",
  "status": "completed"
}"""
"""HCCL's old form: one instance per rank."""

MODELARTS_SERVERS = """\
{
  "status": "completed",
  "version": "1.0",
  "server_count": "2",
  "server_list": [
    {"server_id": "10.0.0.142", "device": [{"device_id": "0", "device_ip": "10.1.0.3", "rank_id": "0"}]},
    {"server_id": "10.0.0.79", "device": [{"device_id": "0", "device_ip": "10.1.0.1", "rank_id": "1"}]}
  ]
}"""
"""The other form of ModelArts: HCCL's, without host_nic_ip, servers in the order of the pods."""
