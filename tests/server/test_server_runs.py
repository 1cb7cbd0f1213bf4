async def test_smoke(agent):
    print(await agent.send(range(1,11), loss=[i/1 for i in range(10)]))
    print(await agent.get())
    print(await agent.get("/series", names="loss,raw_norm", points=4))
    print((await agent.change(0, {"gamma2": 0.99}, reason="x")).text)
    print((await agent.client.get("http://test/metrics")).text)
    print(await agent.get("/audit"), await agent.get("/events"), await agent.get("/parameters"))
